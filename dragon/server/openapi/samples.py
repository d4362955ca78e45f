"""What the examples of the calls send, and how a shell comes to a key of its own."""

from __future__ import annotations

from dragon.server.plain_examples import EXAMPLE_KEY

HELLO = {"tasks": [{"task_name": "hello", "name": "John"}, {"task_name": "hello", "name": "Jane"}]}
LIVE = {"tasks": [{"task_name": "hello", "name": "John"}, {"task_name": "countdown", "from": 10, "delay": 0.3}]}
ONE_KEY = {"tasks": [EXAMPLE_KEY]}
MAKE_KEY = """KEY=$(curl -s $ADDRESS/v1/create -H 'Authorization: Secret $SECRET' \\
  -d '{"tasks": {"task_name": "countdown"}}' | grep -o '[A-Z2-7]\\{26\\}')
"""
MAKE_FILE_KEY = """KEY=$(curl -s $ADDRESS/v1/create -H 'Authorization: Secret $SECRET' \\
  -d '{"tasks": {"task_name": "image.thumb", "width": 480, "url": "$ADDRESS/static/sample.jpg"}}' \\
  | grep -o '[A-Z2-7]\\{26\\}')
"""
