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

const fn code(status: u16, code: &'static str, message: &'static str) -> Code {
    Code {
        code,
        status,
        message,
    }
}

/// Every code that the sandbox knows a status and a text for; any other is answered with 400.
#[rustfmt::skip]
pub const CODES: &[Code] = &[
    code(400, "invalidParameter.param.invalid", "参数错误"),
    code(400, "invalidParameter.robotCode.notExsit", "机器人不存在"),
    code(400, "invalidParameter.robotCode.missing", "缺少 robotCode"),
    code(400, "invalidParameter.robotCode.invalid", "robotCode 不正确"),
    code(400, "invalidParameter.robotCode.empty", "robotCode 为空"),
    code(400, "invalidParameter.invalid", "参数不正确"),
    code(400, "unknown.send.result", "消息发送结果未知"),
    code(400, "invalidParameter.processQueryKey.missing", "缺少 processQueryKey"),
    code(400, "invalidParameter.cursor.invalid", "nextToken 不正确"),
    code(400, "invalidParameter.pageSize.invalid", "maxResults 超过上限 200"),
    code(400, "invalid.openConversationId", "openConversationId 不正确"),
    code(400, "openConversationId.notExisted", "openConversationId 为空"),
    code(400, "invalid.processQueryKey", "processQueryKey 不正确"),
    code(400, "bot.stopped", "机器人已停用"),
    code(400, "template.not.existed", "机器人模板不存在"),
    code(400, "template.stopped", "机器人模板已停用"),
    code(400, EXPIRED, "消息查询数据尚未生成或已过期"),
    code(400, "conversation.org.dismatch", "会话不属于当前组织"),
    code(400, "resource.not.found", "机器人不存在"),
    code(400, "unauthorized", "未授权"),
    code(400, "auth.error", "权限不足"),
    code(500, "system.error", "未知系统错误"),
    code(503, "system.busy", "系统繁忙"),
    code(503, "systemBusy", "系统繁忙"),
    code(503, "systemError.busy", "系统繁忙"),
    code(503, "serviceBusy", "服务繁忙"),
    code(429, "request.too.fast", "请求过快"),
    code(500, "unknownError", "未知错误"),
    code(500, "operationTimeout", "操作超时"),
    code(504, "service.timeout", "服务超时"),
    code(503, "ServiceUnavailable", "服务暂不可用"),
    code(403, THROTTLED, "应用调用该接口过于频繁"),
    code(403, "Forbidden.AccessDenied.QpsLimitForSuitekeyAndOrgAndApi", "套件调用该接口过于频繁"),
    code(403, "Forbidden.AccessDenied.QpsLimitForApi", "接口调用过于频繁"),
    code(403, "Forbidden.AccessDenied.QpmLimitForAppkeyAndApi", "应用每分钟调用次数超限"),
    code(403, "Forbidden.AccessDenied.QpmLimitForApi", "接口每分钟调用次数超限"),
    code(403, QUOTA, "组织本月调用次数已用完"),
    code(403, "Forbidden.AccessDenied.AccessTokenPermissionDenied", "应用尚未开通所需的权限"),
    code(403, "Forbidden.AccessDenied.IpNotInWhiteList", "访问地址不在白名单中"),
    code(400, DEAD_TOKEN, "不合法的 access_token"),
    code(400, "invalidClientIdOrSecret", "无效的 clientId 或 clientSecret"),
    code(400, "invalidSuiteKey", "无效的 suiteKey"),
    code(400, "invalidSuiteTicket", "无效的 suiteTicket"),
    code(400, "invalidAuthInfo", "无效的授权信息"),
];

/// Whether a refusal is for the rate of the calls, and so is not counted against the month.
pub(super) fn is_throttle(code: &str) -> bool {
    code.starts_with("Forbidden.AccessDenied.Qp")
}

/// The status and the text that go with a code.
pub(super) fn lookup(code: &str) -> (u16, &'static str) {
    let known = CODES.iter().find(|known| known.code == code);
    known.map_or((400, "请求失败"), |known| (known.status, known.message))
}
