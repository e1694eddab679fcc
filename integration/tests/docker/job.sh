# The job of the article: a dockerd as a service, a job that builds and runs with it, TLS certificates shared between the
# two in a volume, no --privileged anywhere.
plugins=/usr/libexec/docker/cli-plugins
job='
set -e
export DOCKER_HOST=tcp://docker:2376 DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=/certs/client
i=0; until docker info >/dev/null 2>&1; do sleep 0.2; i=$((i + 1)); [ $i -lt 300 ]; done
docker import -c "CMD [\"sh\"]" /root/bb.tar bb >/dev/null
docker run --rm bb echo ran
docker build -q -t $1 /root/ctx >/dev/null
docker run --rm $1 cat /built
mkdir -p /tmp/app; cd /tmp/app
printf "services:\n  web:\n    image: bb\n    command: sh -c \"mkdir /w; echo composed >/w/index.html; httpd -f -p 80 -h /w\"\n  test:\n    image: bb\n    depends_on: [web]\n    command: sh -c \"for i in 1 2 3 4 5 6 7 8; do wget -qO- http://web/ && exit 0; sleep 1; done; exit 1\"\n" >compose.yaml
docker compose up --quiet-pull --abort-on-container-exit --exit-code-from test
docker compose down
docker images --format "{{.Repository}}" | sort | tr "\n" " "'
# Service, job, network and certificates of one pipeline, named $1.
pipeline() {
    docker network create net-$1 >/dev/null
    ours -d --name service-$1 --network net-$1 --network-alias docker -v certs-$1:/certs/client --entrypoint sh localhost/dind -c "$serve" >/dev/null
    ours --rm --name job-$1 --network net-$1 -v certs-$1:/certs/client:ro -v $plugins:$plugins:ro --entrypoint sh localhost/dind -c "$job" job built-$1
    docker rm -f -v service-$1 >/dev/null
    docker volume rm certs-$1 >/dev/null
    docker network rm net-$1 >/dev/null
}
export plugins serve job
export -f pipeline
t "one job" bash -ec 'pipeline a >log 2>&1 || { tail -5 log; exit 1; }; grep -x ran log; grep -x built log; grep composed log; tail -1 log | grep "bb built-a"'
t "two at once do not see each other's images" bash -ec 'pipeline b >b 2>&1 & pipeline c >c 2>&1 || { tail -5 c; exit 1; }; wait $! || { tail -5 b; exit 1; }; tail -1 b | grep "bb built-b" ; tail -1 c | grep "bb built-c"; no grep built-b c; no grep built-c b'
