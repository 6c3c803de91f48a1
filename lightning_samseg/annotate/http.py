"""What the page and other programs say to the server, and who may say it.

Every call lies under ``api/``, relative to the page, and carries ``Authorization: Bearer TOKEN``; bodies and answers
are JSON unless said. A header ``Tab: NAME``, any text of 1 to 64 letters, digits, ``-`` and ``_``, keeps that tab's
leases alive. Bodies may be sent with ``Content-Encoding: gzip``.

Values::

    mask      {"size": [H, W], "counts": [n, n, ...]}   row-major runs, background first, sum = H * W
    prompt    {"box": [x0, y0, x1, y1]}  half open, in image pixels     or  {"point": [x, y]}  a pixel's indices
    effort    {"seconds": s, "strokes": n, "undos": n}  active seconds of the open image so far; all optional
    state     "open" (not begun), "draft", "accepted", "skipped", "failed" (cannot be read), "gone" (no longer there)
    image     {"id", "name", "state", "position" (in the stream, or null), "reason" (of a skip or a failure, or null),
               "blind", "lease" ({"tab", "author"} or null)}

Calls::

    GET  workspace             {"version", "class", "prompt": "box" | "point", "settings": {...}, "images": [image],
                                "next": id | null, "numbers": {...}, "learned", "pending", "lesson_seconds",
                                "notes": [text], "author"}
    GET  images/ID/pixels      raw values, row-major, little endian, gzip. Headers: Shape "H,W" or "H,W,3"; Dtype
                                "uint8", "uint16", "int16", "int32", "uint32", "float32" or "float64"; Window "low,high"
                                (percentiles 0.5 and 99.5). A colour picture is uint8; grey has the depth of its file.
    POST images/ID/open        {"tab", "take_over": false} -> {"image", "revision", "prompts", "mask": draft | null,
                                "effort", "accepted": mask | null, "blind", "size": [H, W]}; 409 {"error", "lease"} if
                                another tab holds it
    POST images/ID/ask         {"prompts", "sam_only": false} -> {"prompts": [{"sam": mask, "fused": mask | null,
                                "crop": [x0, y0, x1, y1], "alpha"}], "sam": mask, "sam_clipped": mask,
                                "fused": mask | null, "alpha" (mean, or null), "learned", "pending"}.
                                ``sam_only`` waits for no lesson, fixes no snapshot and answers without the network.
                                ``fused`` is null then, and where the image is blind.
    PUT  images/ID/draft       {"revision", "prompts", "mask", "effort"} -> 204 with the header Revision
    POST images/ID/accept      {"revision", "prompts", "mask", "effort"} -> {"position", "corrected", "next": id | null,
                                "revision", "numbers", "fused": mask | null (of a blind image, now shown)}
    POST images/ID/skip        {"revision", "reason"} -> {"next", "revision"}
    POST images/ID/reopen      {} -> as open; a skipped image is open again, an accepted one keeps its place in the
                                stream, and the next accept replaces its mask
    GET  events                server-sent events. ``learned`` {"learned", "pending", "alpha", "numbers"}; ``image``
                                the image; ``note`` {"text"}. Resumed by the header Last-Event-ID; a comment every 15 s

``revision`` counts the writes to an image: a write names the one it has seen, and the answer the new one. Another one
is refused with 409 {"error", "revision", "prompts", "mask", "effort"}, what the server has. Taking over counts as a
write. An accept that is sent twice is answered twice and learned once.

Errors are {"error": text for the user} with status 400 (not understood), 401 (token), 403 (origin), 404 (no such
image), 409 (another tab, or an old revision), 413 (too large), 422 (an image or prompt that cannot be used), 507 (the
disk is full; nothing is lost, send it again). 400 and 403 for a foreign Host or Origin.
"""
