//! The endpoint's error codes with the HTTP status that its documents list first.

/// A code as the endpoint answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `code` in the body.
    pub code: &'static str,
    /// The HTTP status that goes with it where a rule names no other.
    pub status: u16,
    /// `message` in the body.
    pub message: &'static str,
}

/// Throttled: too many calls of an app in a second.
pub(super) const THROTTLED: &str = "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi";
/// The organisation's calls of this month are used up.
pub(super) const QUOTA: &str = "Forbidden.AccessDenied.ApiCountLimitForOrg";
/// The token is unknown or has ended.
pub(super) const DEAD_TOKEN: &str = "InvalidAuthentication";
/// Not generated yet, or expired.
pub(super) const EXPIRED: &str = "processQueryKey.expireTime";

const fn code(code: &'static str, status: u16, message: &'static str) -> Code {
    Code {
        code,
        status,
        message,
    }
}

/// Every code that the sandbox knows a status and a text for; any other is answered with 400.
pub const CODES: &[Code] = &[
    code("invalidParameter.param.invalid", 400, "参数错误"),
    code("invalidParameter.robotCode.notExsit", 400, "机器人不存在"),
    code("invalidParameter.robotCode.missing", 400, "缺少 robotCode"),
    code(
        "invalidParameter.processQueryKey.missing",
        400,
        "缺少 processQueryKey",
    ),
    code("invalidParameter.cursor.invalid", 400, "nextToken 不正确"),
    code(
        "invalidParameter.pageSize.invalid",
        400,
        "maxResults 超过上限 200",
    ),
    code(
        "invalidParameter.robotCode.invalid",
        400,
        "robotCode 不正确",
    ),
    code(
        "invalid.openConversationId",
        400,
        "openConversationId 不正确",
    ),
    code(
        "openConversationId.notExisted",
        400,
        "openConversationId 为空",
    ),
    code("invalid.processQueryKey", 400, "processQueryKey 不正确"),
    code("bot.stopped", 400, "机器人已停用"),
    code("template.not.existed", 400, "机器人模板不存在"),
    code("template.stopped", 400, "机器人模板已停用"),
    code(EXPIRED, 400, "消息查询数据尚未生成或已过期"),
    code("conversation.org.dismatch", 400, "会话不属于当前组织"),
    code("resource.not.found", 400, "机器人不存在"),
    code("unauthorized", 400, "未授权"),
    code("auth.error", 400, "权限不足"),
    code("system.error", 500, "未知系统错误"),
    code("system.busy", 503, "系统繁忙"),
    code("systemBusy", 503, "系统繁忙"),
    code("systemError.busy", 503, "系统繁忙"),
    code("serviceBusy", 503, "服务繁忙"),
    code("request.too.fast", 429, "请求过快"),
    code("unknownError", 500, "未知错误"),
    code("operationTimeout", 500, "操作超时"),
    code("service.timeout", 504, "服务超时"),
    code("ServiceUnavailable", 503, "服务暂不可用"),
    code(THROTTLED, 403, "应用调用该接口过于频繁"),
    code(
        "Forbidden.AccessDenied.QpsLimitForSuitekeyAndOrgAndApi",
        403,
        "套件调用该接口过于频繁",
    ),
    code(
        "Forbidden.AccessDenied.QpsLimitForApi",
        403,
        "接口调用过于频繁",
    ),
    code(
        "Forbidden.AccessDenied.QpmLimitForAppkeyAndApi",
        403,
        "应用每分钟调用次数超限",
    ),
    code(
        "Forbidden.AccessDenied.QpmLimitForApi",
        403,
        "接口每分钟调用次数超限",
    ),
    code(QUOTA, 403, "组织本月调用次数已用完"),
    code(
        "Forbidden.AccessDenied.AccessTokenPermissionDenied",
        403,
        "应用尚未开通所需的权限",
    ),
    code(
        "Forbidden.AccessDenied.IpNotInWhiteList",
        403,
        "访问地址不在白名单中",
    ),
    code(DEAD_TOKEN, 400, "不合法的 access_token"),
    code(
        "invalidClientIdOrSecret",
        400,
        "无效的 clientId 或 clientSecret",
    ),
    code("invalidSuiteKey", 400, "无效的 suiteKey"),
    code("invalidSuiteTicket", 400, "无效的 suiteTicket"),
    code("invalidAuthInfo", 400, "无效的授权信息"),
];

/// Whether a refusal is for the rate of the calls, and so is not counted against the month.
pub(super) fn is_throttle(code: &str) -> bool {
    code.starts_with("Forbidden.AccessDenied.Qp")
}

/// What goes with a code.
pub(super) fn lookup(code: &str) -> Option<Code> {
    CODES.iter().find(|known| known.code == code).copied()
}
