/* cpus.c: how many CPUs there are for us: the affinity mask, bounded by the quotas of control
 * groups.
 *
 * A quota may stand at any level between our group and the root, so all are read. In a container
 * the group's path may be the host's while the mount shows the container's own group as root:
 * levels that are not there are passed over. */
#include <errno.h>
#include <sched.h>

#include "conf/load.h"

/* Reads a small file below root; false when it is not there. */
static bool
small_file(const char *root, const char *dir, const char *group, const char *name, char *out,
           size_t size)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof(path), "%s%s%s/%s", root, dir, group, name) >= sizeof(path))
        return false;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return false;
    size_t n = fread(out, 1, size - 1, f);
    out[n] = '\0';
    fclose(f);
    return n > 0;
}

static unsigned
whole_cpus(long long quota, long long period)
{
    if (quota <= 0 || period <= 0)
        return 0;
    long long n = quota / period + (quota % period != 0);
    return n > 65536 ? 65536 : (unsigned)n;
}

/* cgroup v2: "max 100000" or "150000 100000" (kernel Documentation/admin-guide/cgroup-v2.rst). */
static unsigned
quota_v2(const char *root, const char *group)
{
    char text[128];
    long long quota, period;
    if (!small_file(root, "/sys/fs/cgroup", group, "cpu.max", text, sizeof(text)) ||
        sscanf(text, "%lld %lld", &quota, &period) != 2)
        return 0;
    return whole_cpus(quota, period);
}

/* cgroup v1: -1 = none (kernel Documentation/scheduler/sched-bwc.rst). */
static unsigned
quota_v1(const char *root, const char *group)
{
    static const char *const mounts[] = { "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct" };
    for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
        char quota[64], period[64];
        if (small_file(root, mounts[i], group, "cpu.cfs_quota_us", quota, sizeof(quota)) &&
            small_file(root, mounts[i], group, "cpu.cfs_period_us", period, sizeof(period)))
            return whole_cpus(atoll(quota), atoll(period));
    }
    return 0;
}

/* The least quota of the group and those above it; cuts path short. */
static unsigned
least_up(const char *root, char *path, unsigned (*quota)(const char *, const char *))
{
    unsigned least = 0;
    for (;;) {
        size_t n = strlen(path);
        while (n > 0 && path[n - 1] == '/')
            path[--n] = '\0';
        unsigned here = quota(root, path);
        if (here > 0 && (least == 0 || here < least))
            least = here;
        char *slash = strrchr(path, '/');
        if (slash == NULL)
            return least;
        *slash = '\0';
    }
}

/* Is "cpu" among the controllers, "cpu,cpuacct"? */
static bool
has_cpu(const char *controllers, size_t n)
{
    for (const char *p = controllers, *end = p + n; p < end;) {
        size_t word = strcspn(p, ",:");
        if (word == 3 && memcmp(p, "cpu", 3) == 0)
            return true;
        p += word + 1;
    }
    return false;
}

unsigned
cpus_quota(const char *root)
{
    char path[4096];
    unsigned least = 0;
    if ((size_t)snprintf(path, sizeof(path), "%s/proc/self/cgroup", root) >= sizeof(path))
        return 0;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    char line[4096];
    while (fgets(line, sizeof(line), f) != NULL) {
        /* "hierarchy:controllers:path"; cgroup v2 is "0::path" */
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (group == NULL)
            continue;
        group[1 + strcspn(group + 1, "\n")] = '\0';
        unsigned here = 0;
        if (strncmp(line, "0::", 3) == 0)
            here = least_up(root, group + 1, quota_v2);
        else if (has_cpu(controllers + 1, (size_t)(group - controllers - 1)))
            here = least_up(root, group + 1, quota_v1);
        if (here > 0 && (least == 0 || here < least))
            least = here;
    }
    fclose(f);
    return least;
}

static unsigned
affinity(void)
{
    /* The kernel refuses a mask shorter than its own with EINVAL. */
    for (int cpus = 1024; cpus <= 1024 * 64; cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        if (set == NULL)
            return 1;
        size_t size = CPU_ALLOC_SIZE((size_t)cpus);
        int error = sched_getaffinity(0, size, set) < 0 ? errno : 0;
        int n = error == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (error != EINVAL)
            return n > 0 ? (unsigned)n : 1;
    }
    return 1;
}

unsigned
conf_cpus(void)
{
    unsigned n = affinity(), quota = cpus_quota("");
    return quota > 0 && quota < n ? quota : n;
}
