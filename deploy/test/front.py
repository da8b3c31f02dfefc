"""What stands between a daemon and its endpoint in the world: names and TLS.

    front.py CERTIFICATE KEY                    answers every name with 127.0.0.1 on the DNS port, and hands what comes over
                                                TLS on port 443 to the sandbox on port 8888
    front.py CERTIFICATE KEY ADDRESS SANDBOX    the same for other machines: listens there, hands over to the host SANDBOX,
                                                and names are somebody else's business
"""

import socket
import ssl
import struct
import sys
import threading


def names():
    """A name server that knows one address."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    while True:
        query, client = server.recvfrom(512)
        end = query.index(b"\0", 12) + 5  # the name, its type, its class
        wants_ipv4 = query[end - 4 : end - 2] == b"\0\1"
        head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, int(wants_ipv4), 0, 0)
        answer = struct.pack(">HHHIH4s", 0xC00C, 1, 1, 60, 4, bytes([127, 0, 0, 1]))
        server.sendto(head + query[12:end] + (answer if wants_ipv4 else b""), client)


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(client, context, sandbox):
    try:
        outside = context.wrap_socket(client, server_side=True)
        inside = socket.create_connection((sandbox, 8888))
    except OSError as error:
        print(error, flush=True)
        client.close()
        return
    threading.Thread(target=pump, args=(outside, inside), daemon=True).start()
    pump(inside, outside)


def main():
    certificate, key, *elsewhere = sys.argv[1:]
    address, sandbox = elsewhere or ("127.0.0.1", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if not elsewhere:
        threading.Thread(target=names, daemon=True).start()
    listener = socket.create_server((address, 443))
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, context, sandbox), daemon=True).start()


main()
