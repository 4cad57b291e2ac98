/* nofile.c: descriptors: RLIMIT_NOFILE against limits.connections. */
#include "nofile.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "base/base.h"

enum {
    /* Programs that walk over all descriptors up to the limit (there are some among an
     * application's children) take minutes where a container says "a billion". */
    NOFILE_MAX = 1 << 20,
    /* For Python, database connections, files of the application. */
    NOFILE_RESERVE = 256,
};

void
nofile_fit(struct conf *conf)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0)
        return;
    rlim_t most = r.rlim_max < NOFILE_MAX ? r.rlim_max : NOFILE_MAX;
    if (r.rlim_cur < most) {
        struct rlimit raised = { .rlim_cur = most, .rlim_max = r.rlim_max };
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
            r.rlim_cur = most;
        else
            log_warning("cannot raise the limit of descriptors to %llu: %s",
                        (unsigned long long)most, strerror(errno));
    }
    rlim_t reserve = r.rlim_cur / 4 < NOFILE_RESERVE ? r.rlim_cur / 4 : NOFILE_RESERVE;
    rlim_t room = r.rlim_cur - reserve;
    if (conf->limit_connections > room) {
        log_warning("limits.connections: %u do not fit into %llu descriptors, %llu are allowed; "
                    "raise the limit (ulimit -Hn, "
                    "LimitNOFILE=) or lower limits.connections",
                    conf->limit_connections, (unsigned long long)r.rlim_cur,
                    (unsigned long long)room);
        conf->limit_connections = room > 0 ? (unsigned)room : 1;
    }
}

void
nofile_explain(const struct conf *conf, FILE *out)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0)
        return;
    unsigned long long limit = r.rlim_max < NOFILE_MAX ? r.rlim_max : NOFILE_MAX;
    unsigned long long need = (unsigned long long)conf->limit_connections + NOFILE_RESERVE;
    if (need <= limit)
        fprintf(out,
                "ringcorn: descriptors: a worker needs up to %u connections + %d for files and "
                "databases = %llu; it may have %llu\n",
                conf->limit_connections, NOFILE_RESERVE, need, limit);
    else
        fprintf(
            out,
            "ringcorn: warning: descriptors: a worker needs up to %u connections + %d for files "
            "and databases = %llu, and may have %llu; raise the limit (ulimit -Hn, LimitNOFILE=) "
            "or lower limits.connections\n",
            conf->limit_connections, NOFILE_RESERVE, need, limit);
}
