"""Everything that a partner would never send, at its port.

Arguments: address of the server, file with the certificate and key to show. With those of the real
partner the frames get past TLS and meet the parser of the pair.
"""
import os, random, socket, ssl, struct, sys

target, pem = sys.argv[1:]
host, port = target.rsplit(':', 1)
random.seed(1)


def connect():
    return socket.create_connection((host, int(port)), timeout=5)


def tls(alpn):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.load_cert_chain(pem)
    made.set_alpn_protocols([alpn])
    return made.wrap_socket(connect())


def client_hello():
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols(['ipicsha-pair/1'])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        made.wrap_bio(incoming, outgoing).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def say(stream, data):
    """Sends, then listens until the server closes."""
    try:
        stream.sendall(data)
        while stream.recv(65536):
            pass
    except OSError:
        pass
    stream.close()


def say_and_leave(stream, data):
    try:
        stream.sendall(data)
    except OSError:
        pass
    stream.close()


def frame(body):
    return struct.pack('>I', len(body)) + body


hello = client_hello()
for _ in range(40):
    say_and_leave(connect(), os.urandom(random.randrange(1, 70000)))
say(connect(), b'GET / HTTP/1.1\r\nHost: x\r\n\r\n')
for length in (1, 5, len(hello) // 2, len(hello) - 1):
    say_and_leave(connect(), hello[:length])
say_and_leave(connect(), b'\x16\x03\x01\xff\xff' + os.urandom(0xffff))  # an oversized TLS record
frames = [
    struct.pack('>I', 0xffffffff) + os.urandom(65536),  # oversized: by its header
    frame(os.urandom(4097)),                            # oversized: just above the limit
    frame(os.urandom(4096))[:1000],                     # truncated
    struct.pack('>I', 10)[:2],                          # truncated inside the header
    frame(b''),
    frame(os.urandom(200)),                             # random
]
reached = 0
for body in frames:
    for alpn in ('ipicsha-trust/1', 'ipicsha-pair/1', 'h2'):
        try:
            stream = tls(alpn)
        except OSError:
            continue
        reached += 1
        if body is frames[2] or body is frames[3]:
            say_and_leave(stream, body)
        else:
            say(stream, body)
idle = []
for _ in range(80):  # more than may wait at once
    try:
        idle.append(connect())
    except OSError:
        break
for stream in idle:
    stream.close()
print(reached)
