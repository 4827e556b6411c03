"""A client of Mumble, as small as the protocol allows.

Arguments: host:port, password of SuperUser, file with certificate and key of the user, what to do:
    furnish NAME   SuperUser makes the channel NAME and everything that hangs on it, and registers the
                   user NAME, who joins, comments and moves
    look           prints all that the server shows to SuperUser, as JSON
    login NAME     the user NAME logs in by certificate; prints the user's number and comment
"""
import hashlib, json, socket, ssl, struct, sys

VERSION, AUTHENTICATE, PING, REJECT, SYNC, CHANNEL_REMOVE, CHANNEL, USER = 0, 2, 3, 4, 5, 6, 7, 9
BANS, DENIED, ACL, USERS = 10, 12, 13, 18
INSIDE = 'inner room'
SPEAK, ENTER = 0x8, 0x4


def varint(number):
    out = bytearray()
    while number > 0x7f:
        out.append(number & 0x7f | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def pack(*fields):
    """Protobuf of (number, value) pairs; values are integers, text or bytes."""
    out = b''
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def unpack(data):
    """Protobuf to {number: [values]}."""
    fields, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = number()
        kind = tag & 7
        if kind == 0:
            value = number()
        else:
            length = {1: 8, 5: 4}.get(kind) or number()
            value = data[at:at + length]
            at += length
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def one(fields, number, default=0):
    return fields.get(number, [default])[-1]


def text(fields, number):
    return one(fields, number, b'').decode()


class Client:
    def __init__(self, address, name, password=None, pem=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if pem:
            context.load_cert_chain(pem)
        host, port = address.rsplit(':', 1)
        self.stream = context.wrap_socket(socket.create_connection((host, int(port)), timeout=15))
        self.channels, self.users, self.answers = {}, {}, []
        self.session = None
        self.send(VERSION, (1, 1 << 16 | 3 << 8), (2, 'test'))
        self.send(AUTHENTICATE, (1, name), *([(2, password)] if password else []), (5, 1))
        while self.session is None:
            self.take(*self.receive())

    def send(self, kind, *fields):
        body = pack(*fields)
        self.stream.sendall(struct.pack('>HI', kind, len(body)) + body)

    def exactly(self, count):
        data = b''
        while len(data) < count:
            more = self.stream.recv(count - len(data))
            if not more:
                raise SystemExit('the server has closed the connection')
            data += more
        return data

    def receive(self):
        kind, length = struct.unpack('>HI', self.exactly(6))
        return kind, self.exactly(length)

    def take(self, kind, body):
        if kind == 1:  # sound
            return
        fields = unpack(body)
        if kind in (REJECT, DENIED):
            raise SystemExit(f'refused: {kind} {fields}')
        if kind == SYNC:
            self.session = one(fields, 1)
        elif kind == CHANNEL:
            self.channels.setdefault(one(fields, 1), {}).update(fields)
        elif kind == CHANNEL_REMOVE:
            del self.channels[one(fields, 1)]
        elif kind == USER:
            self.users.setdefault(one(fields, 1), {}).update(fields)
        elif kind in (BANS, ACL, USERS):
            self.answers.append(fields)

    def settle(self):
        """Everything sent before is done: the server works in order."""
        self.send(PING, (1, 77))
        while True:
            kind, body = self.receive()
            if kind == PING:
                return
            self.take(kind, body)

    def ask(self, kind, *fields):
        self.answers.clear()
        self.send(kind, *fields)
        self.settle()
        return self.answers[-1]

    def channel(self, parent, name, *fields):
        self.send(CHANNEL, (2, parent), (3, name), *fields)
        self.settle()
        found = [number for number, has in self.channels.items()
                 if text(has, 3) == name and one(has, 2) == parent]
        assert len(found) == 1, (name, self.channels)
        return found[0]


def certificate(client):
    return hashlib.sha256(client.stream.getpeercert(binary_form=True)).hexdigest()


def furnish(address, password, pem, name):
    admin = Client(address, 'SuperUser', password)
    room = admin.channel(0, name, (5, 'of ' + name), (9, 3))
    inner = admin.channel(room, INSIDE, (5, 'behind ' + name))
    passing = admin.channel(room, 'passing', (5, 'soon gone'))
    admin.send(CHANNEL, (1, room), (6, inner))  # a link
    user = Client(address, name, pem=pem)
    admin.settle()
    admin.send(USER, (1, user.session), (4, 0))  # registers it
    admin.settle()
    number = one(admin.users[user.session], 4, None)
    assert number, admin.users
    user.settle()
    user.send(USER, (1, user.session), (14, 'first words of ' + name))
    user.settle()
    user.send(USER, (1, user.session), (14, 'words of ' + name))  # REPLACE INTO user_info
    user.settle()
    user.send(USER, (1, user.session), (5, inner))
    user.settle()
    for channel in (inner, passing):
        crew = pack((1, 'crew ' + name), (3, 1), (4, 1), (5, number))
        rules = [pack((1, 1), (2, 1), (5, 'all'), (7, ENTER)),
                 pack((1, 1), (2, 0), (4, number), (6, SPEAK | ENTER))]
        admin.send(ACL, (1, channel), (2, 0), (3, crew), *[(4, rule) for rule in rules])
        admin.settle()
    admin.send(CHANNEL_REMOVE, (1, passing))  # their own triggers clear up behind it
    old = [(1, ban) for ban in admin.ask(BANS, (2, 1)).get(1, [])]
    address = bytes(10) + b'\xff\xff' + bytes([192, 0, 2, number])
    ban = pack((1, address), (2, 128), (3, 'banned by ' + name), (5, 'noise'),
               (6, '2026-01-01T00:00:00'), (7, 0))
    admin.send(BANS, *old, (1, ban), (2, 0))
    admin.settle()


def rules_of(admin, number):
    acl = admin.ask(ACL, (1, number), (5, 1))
    groups = [unpack(group) for group in acl.get(3, [])]
    crews = {text(group, 1): group.get(5, []) for group in groups if group.get(5)}
    own = [rule for rule in map(unpack, acl.get(4, [])) if not one(rule, 3, 1)]
    return {'crews': crews, 'rules': len(own), 'inherits': one(acl, 2, 1)}


def look(address, password):
    admin = Client(address, 'SuperUser', password)
    admin.settle()
    shown = {}
    for number, has in sorted(admin.channels.items()):
        rules = rules_of(admin, number) if number else {}
        name, parent = text(has, 3), text(admin.channels[one(has, 2)], 3) if number else ''
        links = sorted(text(admin.channels[link], 3) for link in has.get(4, []) + has.get(6, []))
        shown[f'{parent}/{name}'] = dict(rules, description=text(has, 5), links=links)
    users = [unpack(user) for user in admin.ask(USERS).get(1, [])]
    bans = [unpack(ban) for ban in admin.ask(BANS, (2, 1)).get(1, [])]
    print(json.dumps({
        'certificate': certificate(admin),
        'channels': shown,
        'users': sorted(text(user, 2) for user in users),
        'bans': sorted(text(ban, 3) for ban in bans),
    }))


def login(address, pem, name):
    user = Client(address, name, pem=pem)
    me = user.users[user.session]
    room = user.channels[one(me, 5)]
    print(json.dumps({'number': one(me, 4, None), 'comment': text(me, 14), 'channel': text(room, 3)}))


address, password, pem, what = sys.argv[1:5]
if what == 'furnish':
    furnish(address, password, pem, sys.argv[5])
elif what == 'look':
    look(address, password)
else:
    login(address, pem, sys.argv[5])
