"""A server in the middle: ends TLS on both sides and passes every byte on.

Arguments: address to listen on, address of the real server, file with certificate and key.
"""
import socket, ssl, sys, threading

listen, target, pem = sys.argv[1:]


def split(address):
    host, port = address.rsplit(':', 1)
    return host, int(port)


def context(side, alpn):
    made = ssl.SSLContext(side)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.load_cert_chain(pem)
    made.set_alpn_protocols([alpn])
    return made


def pump(source, sink):
    try:
        while data := source.recv(65536):
            print(len(data), flush=True)
            sink.sendall(data)
    except OSError as error:
        print(error, flush=True)
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(victim):
    try:
        inside = context(ssl.PROTOCOL_TLS_SERVER, 'ipicsha-trust/1').wrap_socket(victim, server_side=True)
        outside = context(ssl.PROTOCOL_TLS_CLIENT, 'ipicsha-trust/1').wrap_socket(
            socket.create_connection(split(target)))
    except OSError as error:
        print(error, flush=True)
        return
    print('in the middle', flush=True)
    threading.Thread(target=pump, args=(inside, outside), daemon=True).start()
    pump(outside, inside)


with socket.create_server(split(listen)) as server:
    print('listening', flush=True)
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
