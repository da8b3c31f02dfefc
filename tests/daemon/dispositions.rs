//! Each error code of the endpoint, and what becomes of a message that meets it.

use receiptd::sandbox::SandboxConfig;

use super::harness::{DEFAULT_ACCOUNT, House};

/// Code, whether the row names a robot itself, and the state it ends in. A blocked message stays pending; where an
/// answer comes only after ten tries of trouble, so does a retried one.
const CODES: &[(&str, bool, &str)] = &[
    ("invalidParameter.param.invalid", false, "failed"),
    ("invalidParameter.robotCode.notExsit", true, "failed"),
    ("invalidParameter.robotCode.notExsit", false, "pending"),
    ("invalidParameter.robotCode.missing", true, "failed"),
    ("invalidParameter.robotCode.missing", false, "pending"),
    ("invalidParameter.robotCode.invalid", true, "failed"),
    ("invalidParameter.processQueryKey.missing", false, "failed"),
    ("invalid.openConversationId", false, "failed"),
    ("openConversationId.notExisted", false, "failed"),
    ("invalid.processQueryKey", false, "failed"),
    ("conversation.org.dismatch", false, "failed"),
    ("bot.stopped", false, "pending"),
    ("template.not.existed", false, "pending"),
    ("template.stopped", false, "pending"),
    ("resource.not.found", false, "pending"),
    ("unauthorized", false, "pending"),
    ("auth.error", false, "pending"),
    ("invalidParameter.cursor.invalid", false, "pending"),
    ("some.code.nobody.knows/400", false, "pending"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_is_the_messages_own_decides_its_row_and_no_other() {
    let account = DEFAULT_ACCOUNT.to_owned() + "robot_code = \"robot\"\n";
    let mut house = House::new(SandboxConfig::default(), &account).await;
    let mut wanted = Vec::new();
    for (n, (code, robot, state)) in CODES.iter().enumerate() {
        let key = format!("sb:code={code};k{n:02}");
        let robot = if *robot { "'itself'" } else { "NULL" };
        house.sql(&format!(
            "INSERT INTO messages (process_query_key, robot_code) VALUES ('{key}', {robot})"
        ));
        let code = code.split('/').next().unwrap();
        wanted.push(format!("{code}|{state}"));
    }
    house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;well', 1)");
    house.start();
    house
        .until(
            "SELECT state FROM messages WHERE process_query_key LIKE '%;well'",
            "complete",
        )
        .await;
    house
        .until(
            "SELECT last_error, state FROM messages WHERE process_query_key LIKE 'sb:code=%' ORDER BY id",
            &wanted.join("\n"),
        )
        .await;
    // What stayed pending is failed when its life ends so.
    house
        .until("SELECT count(*) FROM messages WHERE state = 'pending'", "0")
        .await;
    let ends = house.sql("SELECT DISTINCT state FROM messages WHERE last_error = 'bot.stopped'");
    assert_eq!(ends, ["failed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_the_moment_costs_no_message() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    // Thirty kinds of trouble at once are an account in trouble, which probes now and then: no key may end meanwhile.
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "60s");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "120s");
    let troubles = [
        "code=system.error*3",
        "code=system.error/400*2",
        "code=system.busy*2",
        "code=ServiceUnavailable*2",
        "code=systemBusy*1",
        "code=systemError.busy*1",
        "code=serviceBusy*1",
        "code=request.too.fast*1",
        "code=unknownError*1",
        "code=operationTimeout*1",
        "code=service.timeout*1",
        "code=Forbidden.AccessDenied.QpsLimitForSuitekeyAndOrgAndApi*1",
        "code=Forbidden.AccessDenied.QpsLimitForApi*1",
        "code=invalidParameter.pageSize.invalid*1",
        "html*3",
        "html-ok*2",
        "empty-object*2",
        "empty-body*2",
        "errcode404*2",
        "redirect*2",
        "drop=before*2",
        "drop=after-head*2",
        "drop=mid-body*2",
        "truncate*2",
        "huge*1",
        "throttle*2",
        "dead-token*1",
        "bare401*1",
        "hang=3s*1",
        "fields=no-status*2",
    ];
    for (n, trouble) in troubles.iter().enumerate() {
        house.sql(&format!(
            "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=2,median=1ms,never=0,{trouble};t{n}', 2)"
        ));
    }
    house.start();
    house
        .until(
            "SELECT state, count(*), sum(reader_count) FROM messages GROUP BY state",
            &format!("complete|{}|{}", troubles.len(), 2 * troubles.len()),
        )
        .await;
    assert!(
        house.sandbox.violations().is_empty(),
        "{:?}",
        house.sandbox.violations()
    );
}
