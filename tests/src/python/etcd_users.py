"""Turns on users in an etcd: root, and one who may use what begins with a prefix."""
import base64, json, ssl, sys, urllib.request
base, ca, password, prefix = sys.argv[1:]
trusts = ssl.create_default_context(cafile=ca)


def call(path, **body):
    request = urllib.request.Request(f'{base}/v3/{path}', data=json.dumps(body).encode())
    urllib.request.urlopen(request, timeout=10, context=trusts).read()


def text(plain):
    return base64.b64encode(plain.encode()).decode()


for name in ('root', 'ipicsha'):
    call('auth/user/add', name=name, password=password)
    call('auth/role/add', name=name)
    call('auth/user/grant', user=name, role=name)
permission = {'permType': 'READWRITE', 'key': text(f'{prefix}/'), 'range_end': text(f'{prefix}0')}
call('auth/role/grant', name='ipicsha', perm=permission)
call('auth/enable')
