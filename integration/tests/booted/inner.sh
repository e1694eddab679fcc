# systemd in a delegated scope of systemd's.
R=sysbox
t "systemd inside" bash -ec 'trap tidy EXIT; run --name c1 localhost/systemd; u=$(unit c1)
    soon eval "docker exec c1 systemctl is-system-running --wait | grep -E \"running|degraded\""; same "$(docker exec c1 systemctl is-system-running)" running
    docker exec c1 systemd-run --quiet --unit=inner sleep 1000; systemctl daemon-reload; systemctl daemon-reexec
    same "$(docker exec c1 systemctl is-active inner)" active; docker exec c1 systemctl stop inner; docker exec c1 systemctl daemon-reload
    same "$(docker exec c1 systemctl is-system-running)" running; docker rm -f c1; gone $u'
