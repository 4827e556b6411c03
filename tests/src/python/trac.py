"""A browser, as far as Trac needs one. Cookies go along to every server, as behind one host name.

Arguments: URL of the server, file for the cookies, what to do:
    login USER PASSWORD    logs in
    wiki PAGE TEXT         makes or edits a page
    ticket SUMMARY TEXT    creates a ticket, prints its number
    comment NUMBER TEXT    comments on a ticket and raises its priority
    prefs NAME             sets the name of the user
    get PATH               prints what stands there
"""
import base64, html, json, os, re, sys, urllib.error, urllib.parse, urllib.request

base, cookie_path, what, *rest = sys.argv[1:]


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


opener = urllib.request.build_opener(NoRedirect)
cookies = {}
if os.path.exists(cookie_path):
    with open(cookie_path) as file:
        cookies = json.load(file)


def request(path, form=None, user=None):
    """Status, text and target of a redirection."""
    data = None
    if form is not None:
        form = dict(form, __FORM_TOKEN=cookies.get('trac_form_token', ''))
        data = urllib.parse.urlencode(form).encode()
    asked = urllib.request.Request(base + path, data=data)
    asked.add_header('Cookie', '; '.join(f'{name}={value}' for name, value in cookies.items()))
    if user:
        asked.add_header('Authorization', 'Basic ' + base64.b64encode(user.encode()).decode())
    try:
        answer = opener.open(asked, timeout=15)
    except urllib.error.HTTPError as error:
        answer = error
    for line in answer.headers.get_all('Set-Cookie') or []:
        name, value = line.split(';')[0].split('=', 1)
        cookies[name] = value
    text = answer.read().decode()
    if answer.status >= 400:
        raise SystemExit(f'{answer.status} for {path}: {text[:2000]}')
    return answer.status, text, answer.headers.get('Location', '')


def fields(text):
    """Hidden fields and prefilled ones of the page: what a browser would send back."""
    found = {}
    for tag in re.findall(r'<input[^>]*>', text):
        has = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        if 'name' in has and has.get('type') in ('hidden', 'text'):
            found[has['name']] = html.unescape(has.get('value', ''))
    return found


def submit(path, page, form):
    """Sends a form; Trac answers with a redirection, unless it has something to complain about."""
    status, text, target = request(path, form)
    if status not in (302, 303):
        warnings = re.findall(r'class="(?:system-message|warning)[^>]*>(.*?)</div>', text, re.S)
        raise SystemExit(f'{status} for {path} ({page}): {warnings or text[:2000]}')
    return target


if what == 'login':
    request('/login', user=':'.join(rest))
    assert 'trac_auth' in cookies, cookies
elif what == 'wiki':
    page, text = rest
    version = fields(request(f'/wiki/{page}?action=edit')[1]).get('version', '0')
    submit(f'/wiki/{page}', version, {
        'action': 'edit', 'version': version, 'text': text, 'comment': 'by the test', 'save': 'yes'})
elif what == 'ticket':
    summary, text = rest
    request('/newticket')
    target = submit('/newticket', '', {
        'field_summary': summary, 'field_description': text, 'field_type': 'defect',
        'field_priority': 'major', 'field_component': 'component1', 'field_cc': 'night shift', 'field_station': 'station 7',
        'field_status': 'new', 'action': 'create', 'submit': 'Create ticket'})
    print(re.search(r'/ticket/(\d+)', target)[1])
elif what == 'comment':
    number, text = rest
    before = fields(request(f'/ticket/{number}')[1])
    submit(f'/ticket/{number}', before, {
        'comment': text, 'action': 'leave', 'field_priority': 'critical', 'submit': 'yes',
        'start_time': before['start_time'], 'view_time': before['view_time'],
        'replyto': '', 'cnum': '1'})
elif what == 'prefs':
    request('/prefs')
    submit('/prefs', '', {'action': 'save', 'name': rest[0], 'email': rest[0] + '@example.org'})
else:
    print(request(rest[0])[1])
with open(cookie_path, 'w') as file:
    json.dump(cookies, file)
