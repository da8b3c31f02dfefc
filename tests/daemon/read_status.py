"""An endpoint of its own for messages to persons: python3 read_status.py SENT_AT_MS REQUESTS_FILE

Prints its port, and answers `oToMessages/readStatus` as DingTalk's page of it has it. Each key says what is to be answered:
`p=N/unit/fate+/=`, of N recipients `u0` .. `uN-1`; of these `u{i}` reads 200 + 250 * i milliseconds after SENT_AT_MS, modulo
4 seconds. unit: s, ms, zero, absent. fate: all (everybody reads), one-never (the last never does), recalled (after 3 s),
omits (as all; every second answer leaves out whoever read first). A key answers for 8 seconds.
Every request is written to REQUESTS_FILE, a line each: method, path, length of the body.
"""

import http.server
import json
import sys
import threading
import time
import urllib.parse

SENT, LIFE = int(sys.argv[1]), 8000
WRITTEN = threading.Lock()
REQUESTS = open(sys.argv[2], "w", buffering=1)
ANSWERS = {}


def people(key):
    number, unit, fate = key[2:].removesuffix("+/=").split("/")
    reads = [200 + 250 * i % 4000 for i in range(int(number))]
    if fate == "one-never":
        reads[-1] = None
    return reads, unit, fate


def answer(key, robot):
    if robot != "ding+bot":
        return 400, {"code": "invalidParameter.robotCode.empty", "message": "robotCode"}
    age = time.time() * 1000 - SENT
    if age >= LIFE:
        return 400, {"code": "processQueryKey.expireTime", "message": "expired"}
    reads, unit, fate = people(key)
    with WRITTEN:
        ANSWERS[key] = number = ANSWERS.get(key, 0) + 1
    listed = []
    for i, after in enumerate(reads):
        read = after is not None and after <= age
        person = {"name": f"SECRET NAME {i}", "userId": f"u{i}", "readStatus": "READ" if read else "unread"}
        at = {"s": (SENT + (after or 0)) // 1000, "ms": SENT + (after or 0), "zero": 0, "absent": None}[unit]
        if at is not None:
            person["readTimestamp"] = at if read else 0
        listed.append(person)
    if fate == "omits" and number % 2 == 0:
        listed = listed[1:]
    status = "RECALLED" if fate == "recalled" and age >= 3000 else "success"
    return 200, {"sendStatus": status, "MessageReadInfoList": listed, "errcode": 0}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        with WRITTEN:
            REQUESTS.write(f"{self.command} {self.path} {length}\n")
        url = urllib.parse.urlsplit(self.path)
        if (self.command, url.path) == ("POST", "/v1.0/oauth2/accessToken"):
            status, said = 200, {"accessToken": "t" * 32, "expireIn": 7200}
        elif (self.command, url.path) == ("GET", "/v1.0/robot/oToMessages/readStatus"):
            asked = urllib.parse.parse_qs(url.query, strict_parsing=True)
            status, said = answer(asked["processQueryKey"][0], asked["robotCode"][0])
        else:
            status, said = 404, {"code": "no.such.path"}
        said = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = do_PUT = handle_one

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
