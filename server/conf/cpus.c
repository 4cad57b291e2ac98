/* cpus.c: how many CPUs there are for us: the affinity mask, bounded by the quotas of control
 * groups (cgroup.c). */
#include <errno.h>
#include <sched.h>

#include "conf/load.h"

static unsigned
whole_cpus(long long quota, long long period)
{
    if (quota <= 0 || period <= 0)
        return 0;
    long long n = quota / period + (quota % period != 0);
    return n > 65536 ? 65536 : (unsigned)n;
}

/* cgroup v2: "max 100000" or "150000 100000" (kernel Documentation/admin-guide/cgroup-v2.rst). */
static uint64_t
quota_v2(const char *root, const char *group)
{
    char text[128];
    long long quota, period;
    if (!cgroup_file(root, "", group, "cpu.max", text, sizeof(text)) ||
        sscanf(text, "%lld %lld", &quota, &period) != 2)
        return 0;
    return whole_cpus(quota, period);
}

/* cgroup v1: -1 = none (kernel Documentation/scheduler/sched-bwc.rst). */
static uint64_t
quota_v1(const char *root, const char *group)
{
    static const char *const mounts[] = { "/cpu", "/cpu,cpuacct" };
    for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
        char quota[64], period[64];
        if (cgroup_file(root, mounts[i], group, "cpu.cfs_quota_us", quota, sizeof(quota)) &&
            cgroup_file(root, mounts[i], group, "cpu.cfs_period_us", period, sizeof(period)))
            return whole_cpus(atoll(quota), atoll(period));
    }
    return 0;
}

unsigned
cpus_quota(const char *root)
{
    return (unsigned)cgroup_least(root, "cpu", quota_v1, quota_v2);
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
