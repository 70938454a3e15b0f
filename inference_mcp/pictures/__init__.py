"""Pictures in and out: references → checked bytes, results → files, files → previews.

Above it stand jobs and the surface; below it are the file system and Pillow. It knows no
HTTP, no MCP and no scheduling, and it raises only ``inference_mcp.errors``.

    ``sources.PictureSources``   what a caller names → ``requests.InputPicture``
    ``store.PictureStore``       LocalAI's bytes → a verified PNG on disk, ids, newest first
    ``preview.make_preview``     a stored picture → a small one inside a size budget

The attacker here is the model (or who wrote its prompt): it names paths, links, devices and
URLs, and sends bombs. So a reference is judged by its text first, by what was opened second
(opened once; what was opened is what is read), by its header third, and only then decoded.
Decoding never happens on the event loop's thread.
"""
