/* mime.c: media types by extension: those of the web, the same on every machine (/etc/mime.types is not). */
#include <stdlib.h>

#include "static.h"

/* Sorted by extension. */
static const struct mime types[] = {
    { "7z", "application/x-7z-compressed", false },
    { "aac", "audio/aac", false },
    { "apng", "image/apng", false },
    { "atom", "application/atom+xml", true },
    { "avif", "image/avif", false },
    { "bin", "application/octet-stream", false },
    { "bmp", "image/bmp", true },
    { "bz2", "application/x-bzip2", false },
    { "cjs", "text/javascript; charset=utf-8", true },
    { "css", "text/css; charset=utf-8", true },
    { "csv", "text/csv; charset=utf-8", true },
    { "doc", "application/msword", false },
    { "docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", false },
    { "eot", "application/vnd.ms-fontobject", true },
    { "epub", "application/epub+zip", false },
    { "flac", "audio/flac", false },
    { "geojson", "application/geo+json", true },
    { "gif", "image/gif", false },
    { "glb", "model/gltf-binary", true },
    { "gltf", "model/gltf+json", true },
    { "gz", "application/gzip", false },
    { "htm", "text/html; charset=utf-8", true },
    { "html", "text/html; charset=utf-8", true },
    { "ico", "image/x-icon", true },
    { "ics", "text/calendar; charset=utf-8", true },
    { "jar", "application/java-archive", false },
    { "jpeg", "image/jpeg", false },
    { "jpg", "image/jpeg", false },
    { "js", "text/javascript; charset=utf-8", true },
    { "json", "application/json", true },
    { "jsonld", "application/ld+json", true },
    { "jxl", "image/jxl", false },
    { "m3u8", "application/vnd.apple.mpegurl", true },
    { "m4a", "audio/mp4", false },
    { "m4v", "video/mp4", false },
    { "map", "application/json", true },
    { "md", "text/markdown; charset=utf-8", true },
    { "mjs", "text/javascript; charset=utf-8", true },
    { "mov", "video/quicktime", false },
    { "mp3", "audio/mpeg", false },
    { "mp4", "video/mp4", false },
    { "mpd", "application/dash+xml", true },
    { "mpeg", "video/mpeg", false },
    { "odp", "application/vnd.oasis.opendocument.presentation", false },
    { "ods", "application/vnd.oasis.opendocument.spreadsheet", false },
    { "odt", "application/vnd.oasis.opendocument.text", false },
    { "oga", "audio/ogg", false },
    { "ogg", "audio/ogg", false },
    { "ogv", "video/ogg", false },
    { "opus", "audio/ogg", false },
    { "otf", "font/otf", true },
    { "pdf", "application/pdf", false },
    { "png", "image/png", false },
    { "ppt", "application/vnd.ms-powerpoint", false },
    { "pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation", false },
    { "rar", "application/vnd.rar", false },
    { "rss", "application/rss+xml", true },
    { "rtf", "application/rtf", true },
    { "svg", "image/svg+xml", true },
    { "svgz", "image/svg+xml", false },
    { "tar", "application/x-tar", false },
    { "tif", "image/tiff", false },
    { "tiff", "image/tiff", false },
    { "ts", "video/mp2t", false },
    { "ttf", "font/ttf", true },
    { "txt", "text/plain; charset=utf-8", true },
    { "vtt", "text/vtt; charset=utf-8", true },
    { "wasm", "application/wasm", true },
    { "wav", "audio/wav", false },
    { "weba", "audio/webm", false },
    { "webm", "video/webm", false },
    { "webmanifest", "application/manifest+json", true },
    { "webp", "image/webp", false },
    { "woff", "font/woff", false },
    { "woff2", "font/woff2", false },
    { "xhtml", "application/xhtml+xml", true },
    { "xls", "application/vnd.ms-excel", false },
    { "xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", false },
    { "xml", "application/xml", true },
    { "yaml", "application/yaml", true },
    { "yml", "application/yaml", true },
    { "zip", "application/zip", false },
    { "zst", "application/zstd", false },
};

static int
compare(const void *key, const void *entry)
{
    return strcmp(key, ((const struct mime *)entry)->extension);
}

const struct mime *
mime_of(struct slice name)
{
    static const struct mime unknown = { "", "application/octet-stream", false };
    char extension[16];
    size_t n = 0;
    while (n < name.n && name.p[name.n - 1 - n] != '.' && name.p[name.n - 1 - n] != '/')
        n++;
    if (n == name.n || name.p[name.n - 1 - n] != '.' || n >= sizeof(extension))
        return &unknown;
    for (size_t i = 0; i < n; i++) {
        char c = name.p[name.n - n + i];
        extension[i] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    }
    extension[n] = '\0';
    const struct mime *found =
        bsearch(extension, types, ARRAY_LEN(types), sizeof(types[0]), compare);
    return found != NULL ? found : &unknown;
}
