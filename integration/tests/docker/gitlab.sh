# Two pipelines at once, by a client that knows nothing of us: dockerd's default runtime is ours.
root=/srv/gitlab
for name in a b; do
    mkdir -p $root/repo-$name
    cat >$root/repo-$name/.gitlab-ci.yml <<YAML
build-$name:
  image: {name: localhost/dind, entrypoint: [""]}
  services:
    - name: localhost/dind
      alias: docker
      entrypoint: [sh, /builds/serve.sh]
  variables: {DOCKER_HOST: "tcp://docker:2376", DOCKER_TLS_VERIFY: "1", DOCKER_CERT_PATH: /certs/client}
  script:
    - i=0; until docker info >/dev/null 2>&1; do sleep 0.2; i=\$((i + 1)); [ \$i -lt 300 ]; done
    - docker import -c 'CMD ["sh"]' /root/bb.tar bb >/dev/null
    - docker run --rm bb echo ran-$name
    - cp -r /root/ctx ctx && docker build -q -t built-$name ctx
    - docker run --rm built-$name cat /built
    - cat /proc/self/uid_map
    - docker images
YAML
    git=(chroot $root git -C /repo-$name)
    "${git[@]}" init -q
    "${git[@]}" add .
    "${git[@]}" -c user.name=t -c user.email=t@localhost commit -qm pipeline
    printf '%s\n' "$serve" >$work/serve-$name.sh
done
pipeline() {
    docker volume create certs-$1 >/dev/null
    chroot /srv/gitlab /usr/bin/env HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin FORCE_COLOR=0 sh -c "cd /repo-$1 && exec $program --no-color --pull-policy if-not-present --helper-image localhost/busybox --volume certs-$1:/certs/client --volume $work/serve-$1.sh:/builds/serve.sh:ro"
    docker volume rm certs-$1 >/dev/null
}
program=/opt/gitlab-ci-local/node_modules/.bin/gitlab-ci-local
export program work
export -f pipeline
t "two pipelines at once" bash -ec 'pipeline a >a 2>&1 & pipeline b >b 2>&1 || { tail -30 b; exit 1; }; wait $! || { tail -30 a; exit 1; }'
for which in a b; do
    export which
    t "$which: ran, built, with ids of its own" bash -ec 'grep ran-$which $which; grep "built-$which" $which; grep -E "0 +[0-9]{7,} +1048576" $which'
done
t "they do not see each other's images" bash -ec 'no grep built-b a; no grep built-a b'
t "nothing is left" bash -ec 'same "$(docker ps -aq; docker volume ls -q; docker network ls -q --filter type=custom)" ""'
