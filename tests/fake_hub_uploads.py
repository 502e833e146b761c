"""What a fake hub takes: who is asking, new repositories, and commits, large files by the LFS protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import re

_COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main")
_BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
_OWNER = "me"
"""The account behind every token."""
_LARGE = 10 * 2**10


class Uploads:
    """Part of the handler of requests; says whether it has answered."""

    def takes(self, method: str, path: str, body: bytes) -> bool:
        if path == "/api/whoami-v2":
            self._who()
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []}, "")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif method == "PUT" and path.startswith("/lfs/"):
            self.hub.large[hashlib.sha256(body).hexdigest()] = body
            self._json({}, "")
        elif _BATCH.fullmatch(path):
            self._batch(json.loads(body))
        elif match := _COMMIT.fullmatch(path):
            if self._may_write(match[1]):
                (self._preupload if match[2] == "preupload" else self._commit)(match[1], body)
        else:
            return False
        return True

    def _role(self) -> str | None:
        return self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _who(self) -> None:
        if self._role() is None:
            self._refuse(401, "Unauthorized")
        else:
            self._json({"name": _OWNER, "auth": {"accessToken": {"role": self._role()}}}, "")

    def _may_write(self, name: str) -> bool:
        allowed = self._role() == "write" and name.startswith(f"{_OWNER}/")
        if not allowed:
            self._refuse(403, "Forbidden")
        return allowed

    def _create(self, asked: dict) -> None:
        name = f"{asked['organization'] or _OWNER}/{asked['name']}"
        if not self._may_write(name):
            return
        if ("model", name) in self.hub.repositories:
            self._refuse(409, "Conflict")
            return
        self.hub.add("model", name, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.hub.repositories["model", name].private = asked.get("visibility") == "private" or bool(
            asked.get("private")
        )
        self._json({"url": f"{self.hub.url}/{name}"}, "")

    def _preupload(self, name: str, body: bytes) -> None:
        files = [
            {"path": file["path"], "uploadMode": "lfs" if file["size"] > _LARGE else "regular", "shouldIgnore": False}
            for file in json.loads(body)["files"]
        ]
        self._json({"files": files}, "")

    def _batch(self, asked: dict) -> None:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}} for each in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects}, "")

    def _commit(self, name: str, body: bytes) -> None:
        repository = self.hub.repositories["model", name]
        files = dict(repository.commits[repository.refs["main"]])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        commit = self.hub.add("model", name, files)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit}, commit)
