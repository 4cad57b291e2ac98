"""A PgBouncer of one's own before a PostgreSQL server: transactions of many clients share a few connections.

    with PgBouncer(pg, connections=2) as bouncer:
        bouncer.port
"""

import os
import pwd

import programs


class PgBouncer(programs.Program):
    name = package = "pgbouncer"

    def __init__(self, pg, connections=2):
        super().__init__()
        self.pg, self.connections = pg, connections

    def command(self):
        (self.folder / "users").write_text(f'"{self.pg.user}" ""\n')
        (self.folder / "pgbouncer.ini").write_text(
            f"""[databases]
{self.pg.dbname} = host={self.pg.host} port={self.pg.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {self.folder}/users
pool_mode = transaction
default_pool_size = {self.connections}
"""
        )
        if os.geteuid() != 0:
            return ["pgbouncer.ini"]
        user = pwd.getpwnam("postgres")  # it does not run as root
        for path in (self.folder, *self.folder.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
        return ["--user", "postgres", "pgbouncer.ini"]

    def is_ready(self):
        return "process up" in self.log()
