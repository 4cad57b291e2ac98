/* memory.c: how much memory control groups allow us. */
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
