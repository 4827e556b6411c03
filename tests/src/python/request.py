"""One HTTP request: method, URL, body. Prints the status and the body of the answer."""
import sys, urllib.error, urllib.request
method, url, body = sys.argv[1:]
request = urllib.request.Request(url, method=method, data=body.encode() if body else None)
request.add_header('Content-Type', 'application/json')
try:
    answer = urllib.request.urlopen(request, timeout=10)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
print(answer.read().decode())
