/* memory.c: how much memory control groups allow us, and whom it has cost his life. */
#include "conf/load.h"

/* Version 1 says "none" by the largest multiple of a page that fits into 63 bits. */
#define NONE_V1 (UINT64_C(1) << 62)

/* cgroup v2: "max", or bytes. memory.high throttles before; what counts here is who gets killed. */
static uint64_t
limit_v2(const char *root, const char *group)
{
    char text[64];
    if (!cgroup_file(root, "", group, "memory.max", text, sizeof(text)))
        return 0;
    return strtoull(text, NULL, 10); /* 0 for "max" */
}

static uint64_t
limit_v1(const char *root, const char *group)
{
    char text[64];
    if (!cgroup_file(root, "/memory", group, "memory.limit_in_bytes", text, sizeof(text)))
        return 0;
    uint64_t n = strtoull(text, NULL, 10);
    return n >= NONE_V1 ? 0 : n;
}

uint64_t
memory_limit(const char *root)
{
    return cgroup_least(root, "memory", limit_v1, limit_v2);
}

uint64_t
conf_memory(void)
{
    return memory_limit("");
}

/* The number behind "oom_kill " at the beginning of a line; 0 where there is none. */
static uint64_t
oom_kills_in(const char *text)
{
    static const char name[] = "oom_kill ";
    for (const char *line = text; line != NULL && *line != '\0';) {
        if (strncmp(line, name, sizeof(name) - 1) == 0)
            return strtoull(line + sizeof(name) - 1, NULL, 10);
        line = strchr(line, '\n');
        line += line != NULL;
    }
    return 0;
}

static uint64_t
oom_kills_v2(const char *root, const char *group)
{
    char text[1024];
    return cgroup_file(root, "", group, "memory.events", text, sizeof(text)) ? oom_kills_in(text)
                                                                             : 0;
}

static uint64_t
oom_kills_v1(const char *root, const char *group)
{
    char text[1024];
    return cgroup_file(root, "/memory", group, "memory.oom_control", text, sizeof(text))
               ? oom_kills_in(text)
               : 0;
}

uint64_t
memory_oom_kills(const char *root)
{
    char path[4096], line[256];
    uint64_t n = cgroup_least(root, "memory", oom_kills_v1, oom_kills_v2);
    if (n > 0 || (size_t)snprintf(path, sizeof(path), "%s/proc/vmstat", root) >= sizeof(path))
        return n;
    FILE *f = fopen(path, "re");
    while (f != NULL && n == 0 && fgets(line, sizeof(line), f) != NULL)
        n = oom_kills_in(line);
    if (f != NULL)
        fclose(f);
    return n;
}

uint64_t
conf_oom_kills(void)
{
    return memory_oom_kills("");
}
