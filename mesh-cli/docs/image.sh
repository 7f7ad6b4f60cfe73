#!/bin/sh
# Makes an image of one static binary and the roots of the web, without a builder: an OCI archive, which
# `ctr images import`, `podman load`, `skopeo copy oci-archive:` and `docker load` take. The same files give the
# same image, byte for byte.
#
#   image.sh BINARY NAME:TAG OUT.tar [ROOTS.pem]
set -eu
binary=$1 name=$2 out=$3 roots=${4:-/etc/ssl/certs/ca-certificates.crt}
if ldd "$binary" 2> /dev/null | grep -q '=>'; then
  echo "image.sh: $binary asks for libraries, which the image will not have: link it statically" >&2
  exit 1
fi
case $(uname -m) in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) echo "image.sh: which architecture is $(uname -m)?" >&2; exit 1 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
same() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar "$@"; }
root=$work/root image=$work/image
install -D -m 755 "$binary" "$root/usr/local/bin/mesh"
install -D -m 644 "$roots" "$root/etc/ssl/certs/ca-certificates.crt"
# What a process without a base looks for: its user, and that /etc/hosts is asked before DNS.
echo 'mesh:x:65532:65532::/:' > "$root/etc/passwd"
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
mkdir -p "$root/tmp" "$root/proc" "$root/sys" "$root/dev" "$image/blobs/sha256"
chmod 1777 "$root/tmp"
# Puts a file among the blobs, and says what it is called there and how long it is.
blob() {
  digest=$(sha256sum "$1" | cut -d ' ' -f 1)
  size=$(wc -c < "$1" | tr -d ' ')
  mv "$1" "$image/blobs/sha256/$digest"
}
same -C "$root" -cf "$work/layer" .
blob "$work/layer"
layer=$digest layer_size=$size
printf '{"architecture":"%s","os":"linux","config":{"User":"65532:65532","Entrypoint":["/usr/local/bin/mesh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$architecture" "$layer" > "$work/config"
blob "$work/config"
kind=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"%s.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
  $kind $kind "$digest" "$size" $kind "$layer" "$layer_size" > "$work/manifest"
blob "$work/manifest"
printf '{"schemaVersion":2,"mediaType":"%s.index.v1+json","manifests":[{"mediaType":"%s.manifest.v1+json","digest":"sha256:%s","size":%s,"platform":{"architecture":"%s","os":"linux"},"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
  $kind $kind "$digest" "$size" "$architecture" "$name" "${name##*:}" > "$image/index.json"
echo '{"imageLayoutVersion":"1.0.0"}' > "$image/oci-layout"
same -C "$image" -cf "$out" oci-layout index.json blobs
echo "$out: $name, sha256:$digest"
