"""A mail server for tests: it keeps no mail but says what came, a line for each mail that it took."""

import asyncio
import base64
import email
import email.policy
import sys
from typing import Any

from aiosmtpd.smtp import SMTP


class Mailbox:
    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        [drop] = mail.iter_attachments()
        if "REFUSED" in drop.get_filename():
            return "554 5.7.1 not wanted"
        print("TOOK", drop.get_filename(), base64.b64encode(drop.get_payload(decode=True)).decode(), flush=True)
        return "250 OK"


async def main() -> None:
    port = int(sys.argv[1])
    loop = asyncio.get_running_loop()
    serve = await loop.create_server(lambda: SMTP(Mailbox(), hostname="mail.example"), "127.0.0.1", port)
    print("LISTENING", serve.sockets[0].getsockname()[1], flush=True)
    await serve.serve_forever()


asyncio.run(main())
