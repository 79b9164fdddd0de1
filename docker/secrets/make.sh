#!/usr/bin/env bash
# Make the secrets that docker-compose.yml wants, once; those that are there stay. Prints the API key, which is kept nowhere
# else in the clear. Needs openssl and sha256sum.
set -euo pipefail
cd "$(dirname "$0")"
# The containers' users are not ours: they read the files, nobody else enters the folder.
chmod 700 .
umask 022
random() { openssl rand -hex 32; }

if [ ! -f redis-url ]; then
    password=$(random)
    echo "requirepass $password" >valkey-auth
    echo "{\"redis://valkey:6379\": \"$password\"}" >redis-exporter-passwords
    echo "redis://:$password@valkey:6379/0" >redis-url
fi
[ -f engine-api-key ] || random >engine-api-key
[ -f grafana-password ] || random >grafana-password
if [ ! -f api-keys.json ]; then
    key=gak-$(random)
    digest=$(printf %s "$key" | sha256sum | cut -d' ' -f1)
    echo "{\"keys\": [{\"name\": \"first\", \"tenant\": \"default\", \"sha256\": \"$digest\"}]}" >api-keys.json
    echo "API key (keep it, it cannot be shown again): $key"
fi
echo "Grafana: user admin, password in docker/secrets/grafana-password"
