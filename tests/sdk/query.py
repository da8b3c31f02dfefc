"""Points the official DingTalk SDK (pip install alibabacloud_dingtalk) at a running `receiptd sandbox`.

    receiptd sandbox --listen 127.0.0.1:8888 &
    python3 tests/sdk/query.py 127.0.0.1:8888

Ends with 0 when the SDK understood every answer, 77 when the SDK is not installed.
"""

import json
import sys
import urllib.request

try:
    from alibabacloud_dingtalk.oauth2_1_0 import client as oauth, models as oauth_models
    from alibabacloud_dingtalk.robot_1_0 import client as robot, models as robot_models
    from alibabacloud_tea_openapi.models import Config
    from alibabacloud_tea_util.models import RuntimeOptions
    from Tea.exceptions import TeaException
except ImportError as error:
    print(f"skipped: the official SDK is not installed ({error})")
    sys.exit(77)

ENDPOINT = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8888"
CONFIG = Config(protocol="http", endpoint=ENDPOINT)
ROBOT = robot.Client(CONFIG)


def publish(*messages):
    request = urllib.request.Request(
        f"http://{ENDPOINT}/sandbox/messages", json.dumps(messages).encode(), method="PUT"
    )
    urllib.request.urlopen(request).read()


def get(what):
    return json.load(urllib.request.urlopen(f"http://{ENDPOINT}/sandbox/{what}"))


def read_at(key, user):
    """When somebody truly read, in Unix milliseconds."""
    [message] = [one for one in get("truth") if one["key"] == key]
    [when] = [one["readAt"] for one in message["readers"] if one["userId"] == user]
    return when


def token():
    request = oauth_models.GetAccessTokenRequest(app_key="sandbox", app_secret="sandbox")
    body = oauth.Client(CONFIG).get_access_token(request).body
    assert body.expire_in > 0, body
    return body.access_token


def walk(kind, key, access_token):
    """Every page of a message: its last sendStatus, its readers, how many pages."""
    query = {
        "private": (robot_models.PrivateChatQueryRequest, robot_models.PrivateChatQueryHeaders,
                    ROBOT.private_chat_query_with_options),
        "group": (robot_models.OrgGroupQueryRequest, robot_models.OrgGroupQueryHeaders,
                  ROBOT.org_group_query_with_options),
    }[kind]
    readers, pages, following = [], 0, None
    while True:
        question = query[0](process_query_key=key, robot_code="ding1", max_results=50,
                            open_conversation_id="cid1==", next_token=following)
        headers = query[1](x_acs_dingtalk_access_token=access_token)
        body = query[2](question, headers, RuntimeOptions()).body
        readers += body.read_user_ids
        pages += 1
        if not body.has_more:
            return body.send_status, readers, pages
        following = body.next_token


def recipients(key, access_token):
    """Of a message to persons, whether and when each has read it."""
    question = robot_models.BatchOTOQueryRequest(robot_code="ding1", process_query_key=key)
    headers = robot_models.BatchOTOQueryHeaders(x_acs_dingtalk_access_token=access_token)
    body = ROBOT.batch_otoquery_with_options(question, headers, RuntimeOptions()).body
    return {one.user_id: (one.read_status, one.read_timestamp) for one in body.message_read_info_list}


def refusal(kind, key, access_token):
    try:
        walk(kind, key, access_token)
    except TeaException as error:
        return error.code
    raise AssertionError(f"{key} was answered")


def main():
    many = [{"userId": f"u{n}", "afterMs": 0} for n in range(180)]
    publish(
        {"key": "sdk-private+/=", "chat": "private", "readers": [{"userId": "ann", "afterMs": 0}]},
        {"key": "sdk-group", "chat": "group", "readers": many},
        {"key": "sdk-recalled", "rule": "recall=0s", "readers": []},
        *(
            {"key": f"sdk-{unit}+/=", "rule": f"read_unit={unit}",
             "readers": [{"userId": "ann", "afterMs": 0}, {"userId": "bob"}]}
            for unit in ["s", "ms", "zero", "absent"]
        ),
    )
    good = token()
    assert token() == good, "a living token is handed out again"
    assert walk("private", "sdk-private+/=", good) == ("SUCCESS", ["ann"], 1)
    status, readers, pages = walk("group", "sdk-group", good)
    assert (status, sorted(readers)) == ("SUCCESS", sorted(f"u{n}" for n in range(180))) and pages >= 4
    assert walk("private", "sdk-recalled", good)[0] == "RECALLED"
    assert refusal("private", "sb:code=bot.stopped;sdk", good) == "bot.stopped"
    assert refusal("group", "sb:expire=0s;sdk", good) == "processQueryKey.expireTime"
    assert refusal("private", "sdk-group", "0" * 32) == "InvalidAuthentication"

    # The live endpoint says seconds, which the SDK hands on.
    for unit, told_of in [("s", lambda ms: ms // 1_000), ("ms", int), ("zero", lambda _: 0), ("absent", lambda _: None)]:
        key = f"sdk-{unit}+/="
        assert recipients(key, good) == {
            "ann": ("READ", told_of(read_at(key, "ann"))),
            "bob": ("UNREAD", None),
        }, unit

    seen = get("violations")
    # The one made-up token above is the only thing that the interface does not allow.
    assert [one["what"] for one in seen] == ["a token that was never given out"], seen
    print("the official SDK understood every answer")


main()
