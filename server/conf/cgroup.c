/* cgroup.c: limits of control groups, version 1 and 2.
 *
 * A limit may stand at any level between our group and the root, so all are read. In a container
 * the group's path may be the host's while the mount shows the container's own group as root:
 * levels that are not there are passed over. */
#include "conf/load.h"

bool
cgroup_file(const char *root, const char *mount, const char *group, const char *name, char *out,
            size_t size)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof(path), "%s/sys/fs/cgroup%s%s/%s", root, mount, group, name) >=
        sizeof(path))
        return false;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return false;
    size_t n = fread(out, 1, size - 1, f);
    out[n] = '\0';
    fclose(f);
    return n > 0;
}

static uint64_t
least_of(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* The least of the group and those above it; cuts path short. */
static uint64_t
least_up(const char *root, char *path, cgroup_fn limit)
{
    uint64_t least = 0;
    for (;;) {
        size_t n = strlen(path);
        while (n > 0 && path[n - 1] == '/')
            path[--n] = '\0';
        least = least_of(least, limit(root, path));
        char *slash = strrchr(path, '/');
        if (slash == NULL)
            return least;
        *slash = '\0';
    }
}

/* Is the controller among "cpu,cpuacct"? */
static bool
has_controller(const char *list, size_t n, const char *controller)
{
    size_t want = strlen(controller);
    for (const char *p = list, *end = list + n; p < end;) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        size_t word = (size_t)((comma ? comma : end) - p);
        if (word == want && memcmp(p, controller, want) == 0)
            return true;
        p += word + 1;
    }
    return false;
}

uint64_t
cgroup_least(const char *root, const char *controller, cgroup_fn v1, cgroup_fn v2)
{
    char path[4096];
    uint64_t least = 0;
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
        if (strncmp(line, "0::", 3) == 0)
            least = least_of(least, least_up(root, group + 1, v2));
        else if (has_controller(controllers + 1, (size_t)(group - controllers - 1), controller))
            least = least_of(least, least_up(root, group + 1, v1));
    }
    fclose(f);
    return least;
}
