"""What people write about hosts: host lists, the host directory, OpenSSH's configuration and known_hosts."""
