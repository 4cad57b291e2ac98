/* Quotas of control groups, read below a root of the test's own. */
#include "conf_load.h"

static void
file_below(const char *root, const char *path, const char *text)
{
    char whole[512];
    snprintf(whole, sizeof(whole), "%s%s%s", test_dir, root, path);
    for (char *p = strchr(whole + 1, '/'); p != NULL; p = strchr(p + 1, '/')) {
        *p = '\0';
        mkdir(whole, 0755);
        *p = '/';
    }
    write_file(whole, text);
}

static unsigned
quota(const char *root)
{
    char whole[128];
    snprintf(whole, sizeof(whole), "%s%s", test_dir, root);
    return cpus_quota(whole);
}

static uint64_t
memory(const char *root)
{
    char whole[128];
    snprintf(whole, sizeof(whole), "%s%s", test_dir, root);
    return memory_limit(whole);
}

static uint64_t
oom_kills(const char *root)
{
    char whole[128];
    snprintf(whole, sizeof(whole), "%s%s", test_dir, root);
    return memory_oom_kills(whole);
}

int
main(void)
{
    test_begin();
    CHECK(quota("/none") == 0);

    file_below("/v2", "/proc/self/cgroup", "0::/a/b\n");
    CHECK(quota("/v2") == 0);
    file_below("/v2", "/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    CHECK(quota("/v2") == 0);
    file_below("/v2", "/sys/fs/cgroup/a/b/cpu.max", "250000 100000\n");
    ok(quota("/v2") == 3, "two and a half CPUs are three");
    file_below("/v2", "/sys/fs/cgroup/a/cpu.max", "200000 100000\n");
    ok(quota("/v2") == 2, "the level above bounds too");
    file_below("/v2", "/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    ok(quota("/v2") == 1, "half a CPU is one");
    file_below("/v2", "/sys/fs/cgroup/a/b/cpu.max", "rubbish\n");
    CHECK(quota("/v2") == 2);
    file_below("/v2", "/sys/fs/cgroup/a/cpu.max", "-5 0\n");
    CHECK(quota("/v2") == 0);

    /* A container that sees its own group as root, under the host's path. */
    file_below("/ns", "/proc/self/cgroup", "0::/docker/0123456789\n");
    file_below("/ns", "/sys/fs/cgroup/cpu.max", "400000 100000\n");
    CHECK(quota("/ns") == 4);
    file_below("/top", "/proc/self/cgroup", "0::/\n");
    file_below("/top", "/sys/fs/cgroup/cpu.max", "150000 100000\n");
    CHECK(quota("/top") == 2);

    file_below("/v1", "/proc/self/cgroup",
               "3:cpuset:/x\n2:cpu,cpuacct:/kube/pod\n1:name=systemd:/\n0::/\n");
    file_below("/v1", "/sys/fs/cgroup/cpu,cpuacct/kube/pod/cpu.cfs_quota_us", "150000\n");
    file_below("/v1", "/sys/fs/cgroup/cpu,cpuacct/kube/pod/cpu.cfs_period_us", "50000\n");
    CHECK(quota("/v1") == 3);
    file_below("/v1", "/sys/fs/cgroup/cpu,cpuacct/kube/pod/cpu.cfs_quota_us", "-1\n");
    CHECK(quota("/v1") == 0);
    file_below("/v1", "/sys/fs/cgroup/cpu/kube/cpu.cfs_quota_us", "100000\n");
    file_below("/v1", "/sys/fs/cgroup/cpu/kube/cpu.cfs_period_us", "100000\n");
    CHECK(quota("/v1") == 1);
    file_below("/set", "/proc/self/cgroup", "3:cpuset:/x\n2:cpuacct:/x\n");
    file_below("/set", "/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "100000\n");
    file_below("/set", "/sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n");
    ok(quota("/set") == 0, "other controllers are not the cpu's");
    file_below("/bad", "/proc/self/cgroup", "\n:\n::\nx\n0::\n");
    CHECK(quota("/bad") == 0);

    CHECK(conf_cpus() >= 1);

    CHECK(memory("/none") == 0);
    CHECK(memory("/v2") == 0);
    file_below("/v2", "/sys/fs/cgroup/a/b/memory.max", "max\n");
    CHECK(memory("/v2") == 0);
    file_below("/v2", "/sys/fs/cgroup/a/b/memory.max", "536870912\n");
    CHECK(memory("/v2") == 512 << 20);
    file_below("/v2", "/sys/fs/cgroup/a/memory.max", "268435456\n");
    ok(memory("/v2") == 256 << 20, "the level above bounds too");
    file_below("/ns", "/sys/fs/cgroup/memory.max", "1073741824\n");
    ok(memory("/ns") == 1 << 30, "a container's own group is its root");
    file_below("/v1", "/proc/self/cgroup",
               "4:memory:/kube/pod\n2:cpu,cpuacct:/kube/pod\n1:name=systemd:/\n0::/\n");
    CHECK(memory("/v1") == 0);
    file_below("/v1", "/sys/fs/cgroup/memory/kube/pod/memory.limit_in_bytes",
               "9223372036854771712\n");
    ok(memory("/v1") == 0, "version 1 has a number for none");
    file_below("/v1", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "134217728\n");
    CHECK(memory("/v1") == 128 << 20);

    CHECK(memory_oom_kills("/nowhere") == 0);
    file_below("/v2", "/proc/vmstat", "nr_free_pages 1\noom_kill 7\n");
    ok(oom_kills("/v2") == 7, "where nobody of ours has died, the machine's count");
    file_below("/v2", "/sys/fs/cgroup/a/memory.events",
               "max 3\noom 9\noom_kill 2\noom_group_kill 0\n");
    CHECK(oom_kills("/v2") == 2);
    file_below("/v1", "/sys/fs/cgroup/memory/kube/pod/memory.oom_control",
               "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n");
    ok(oom_kills("/v1") == 4, "version 1 has it in another file");
    return test_end();
}
