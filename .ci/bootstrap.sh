# Sourced by ./demo and ./test: sees to it that this machine can build and boot test hosts. Installs from Debian's or
# Ubuntu's own packages what is missing, and nothing when all is there.
# shellcheck shell=sh

say() {
	printf '==> %s\n' "$*" >&2
}

die() {
	printf '%s: %s\n' "$0" "$*" >&2
	exit 69
}

# program:package, where the program shows that the package is there
needed='make:make gcc:gcc mmdebstrap:mmdebstrap systemd-nspawn:systemd-container shellcheck:shellcheck
	mke2fs:e2fsprogs tar:tar nsenter:util-linux losetup:mount python3:python3 git:git'
needed_files='/usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring /usr/include/stdio.h:libc6-dev'

# only ./test wants these
# shellcheck disable=SC2034  # read by ./test
needed_for_vm='qemu-system-x86_64:qemu-system-x86 ssh:openssh-client ssh-keygen:openssh-client'
# shellcheck disable=SC2034
needed_files_for_vm='/usr/share/seabios/bios-256k.bin:seabios'

missing() {
	for pair in $1; do
		command -v "${pair%%:*}" >/dev/null 2>&1 || printf '%s ' "${pair##*:}"
	done
	for pair in $2; do
		[ -e "${pair%%:*}" ] || printf '%s ' "${pair##*:}"
	done
}

missing_packages() {
	missing "$needed" "$needed_files"
	python3 -c 'import ensurepip' 2>/dev/null || printf 'python3-venv '
	python3 -c 'import pip' 2>/dev/null || printf 'python3-pip '
}

install_packages() {
	command -v apt-get >/dev/null || die "needs a Debian or an Ubuntu; elsewhere install: $1"
	say "installing $1"
	apt-get update -q=2 || die 'the package lists could not be fetched'
	# shellcheck disable=SC2086  # one word per package
	DEBIAN_FRONTEND=noninteractive apt-get install -q=2 --no-install-recommends $1 >/dev/null ||
		die "could not install $1"
}

bootstrap() {
	[ "$(id -u)" = 0 ] || die 'needs root, to boot hosts of its own: run it with sudo'
	export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" PYTHONDONTWRITEBYTECODE=1
	packages=$(missing_packages)
	[ -z "$packages" ] || install_packages "$packages"
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die 'needs Python 3.11 or newer'
}
