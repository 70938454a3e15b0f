"""Pictures in and out: references → checked bytes, results → files, files → previews.

Above it stand jobs and the surface; below it are the file system and Pillow. It knows no
HTTP, no MCP and no scheduling, and it raises only ``inference_mcp.errors``.

    ``sources.PictureSources``   what a caller names → ``requests.InputPicture``
    ``store.PictureStore``       LocalAI's bytes → a verified PNG on disk, ids, newest first
    ``preview.make_preview``     a stored picture → a small one inside a size budget

These three are for others; below them, from the bottom up, and known to them alone:

    ``rules``        limits, formats by their first bytes, how a refusal reads
    ``ids``          names of generated pictures
    ``references``   a caller's text → which of the three forms it is; no I/O
    ``disk``         work on a disk that may hang, for a bounded time
    ``opening``      a path → the bytes of one regular file under a root
    ``anatomy``      what a file is made of, told before any decoder sees it
    ``pngrows``      a PNG's rows: proved, or made into strips
    ``decoding``     bytes → pixels; the one place that decodes foreign files
    ``encoding``     pixels → bytes within a budget
    ``pngtext``      how a picture came to be, written into its PNG
    ``publishing``   a whole file under its final name, never over another

The attacker here is the model (or who wrote its prompt): it names paths, links, devices and
URLs, and sends bombs. So a reference is judged by its text first, by what was opened second
(opened once; what was opened is what is read), by its structure third, and only then decoded.
Decoding never happens on the event loop's thread. A disk that hangs is waited for ten seconds,
and few threads are left behind at it. What is written has the rights that the user's umask and
folder give: a picture holds its prompt, and whoever may read the folder may read that.
"""
