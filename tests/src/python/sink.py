"""Takes what is posted by HTTP and mailed by SMTP, and prints a JSON line for each.

Argument: the address to listen on. The first line says the two ports.
"""
import http.server, json, socketserver, sys, threading


def say(what):
    print(json.dumps(what), flush=True)


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        say({'way': 'webhook', 'type': self.headers['content-type'], 'word': json.loads(body)})
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Mail(socketserver.StreamRequestHandler):
    def handle(self):
        answer = lambda text: self.wfile.write(text.encode() + b'\r\n')
        answer('220 sink')
        to = []
        while line := self.rfile.readline().decode().strip():
            verb = line.upper()
            if verb.startswith('RCPT TO:'):
                to.append(line[8:].split('>')[0].strip('< '))
            if verb == 'DATA':
                answer('354 go on')
                text = []
                while (part := self.rfile.readline().decode()) not in ('.\r\n', ''):
                    text.append(part)
                say({'way': 'mail', 'to': to, 'text': ''.join(text)})
            if verb == 'QUIT':
                return answer('221 bye')
            answer('250 sink')


hooks = http.server.ThreadingHTTPServer((sys.argv[1], 0), Hook)
mails = socketserver.ThreadingTCPServer((sys.argv[1], 0), Mail)
say({'webhook': hooks.server_address[1], 'mail': mails.server_address[1]})
threading.Thread(target=hooks.serve_forever).start()
mails.serve_forever()
