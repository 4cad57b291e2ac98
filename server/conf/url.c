/* url.c: the address of events.webhook, taken apart. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "conf/load.h"

enum { PORT_HTTP = 80, PORT_HTTPS = 443 };

static int
wrong(char *why, size_t why_size, const char *text)
{
    snprintf(why, why_size, "%s", text);
    return -EINVAL;
}

int
conf_url_parse(const char *text, struct conf_url *out, char *why, size_t why_size)
{
    struct conf_url url = { .port = PORT_HTTP };
    if (strncasecmp(text, "https://", 8) == 0) {
        url.is_tls = true;
        url.port = PORT_HTTPS;
    } else if (strncasecmp(text, "http://", 7) != 0) {
        return wrong(why, why_size, "is not a URL such as https://host/path");
    }
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++)
        if (*p <= ' ' || *p >= 0x7f)
            return wrong(why, why_size, "has a byte that a URL writes as %XX");
    const char *host = text + (url.is_tls ? 8 : 7);
    url.target = host + strcspn(host, "/?#");
    if (strchr(url.target, '#') != NULL)
        return wrong(why, why_size, "has a fragment (#), which is never sent");
    if (*url.target == '?')
        return wrong(why, why_size, "has no path before its '?'; write https://host/?query");
    size_t n = (size_t)(url.target - host);
    if (memchr(host, '@', n) != NULL)
        return wrong(why, why_size, "has a user's name in it, which is not supported");
    const char *host_end = host + n, *colon = memchr(host, ':', n);
    if (*host == '[') { /* IPv6 */
        host_end = memchr(host, ']', n);
        if (host_end == NULL)
            return wrong(why, why_size, "has a '[' without its ']'");
        host++;
        colon = host_end + 1 < url.target ? host_end + 1 : NULL;
        if (colon != NULL && *colon != ':')
            return wrong(why, why_size, "has neither a port nor a path behind its ']'");
    } else if (colon != NULL) {
        host_end = colon;
    }
    size_t host_n = (size_t)(host_end - host);
    if (host_n == 0 || host_n >= sizeof(url.host))
        return wrong(why, why_size, "has no host, or one of more than 255 bytes");
    memcpy(url.host, host, host_n);
    if (colon != NULL) {
        char port[6] = "";
        size_t port_n = (size_t)(url.target - colon - 1);
        if (port_n > 0 && port_n < sizeof(port))
            memcpy(port, colon + 1, port_n);
        if (!port_is_right(port) || atoi(port) == 0)
            return wrong(why, why_size, "has a port that is not 1 to 65535");
        url.port = (uint16_t)atoi(port);
    }
    if (*url.target == '\0')
        url.target = "/";
    *out = url;
    return 0;
}
