# shellcheck shell=sh
# Shared by quickstart, runtests and scripts/build: packages, the toolchain (the system's, or a private one without
# root) and the environment that goes with it. Source it with the tree's top as working directory.

top=$(pwd)
deps=$top/.deps

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
is_root() { [ "$(id -u)" = 0 ]; }

# packages GROUP...: the packages of these groups of scripts/packages.
packages() {
	awk -v want=" $* " '
		/^# [a-z-]+: / { inside = index(want, " " substr($2, 1, length($2) - 1) " "); next }
		/^#/ || /^$/ { next }
		inside { print $1 }' "$top/scripts/packages"
}

# missing PACKAGE...: those of them that this system has not installed.
missing() {
	for package; do
		case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
		installed*) ;;
		*) say "$package" ;;
		esac
	done
}

# Debian's name of this machine's library folders.
multiarch() {
	case $(dpkg --print-architecture) in
	amd64) say x86_64-linux-gnu ;;
	arm64) say aarch64-linux-gnu ;;
	*) die "Lattice builds on amd64 and arm64; this is $(dpkg --print-architecture)" ;;
	esac
}

# install PACKAGE...: by apt, as root.
install() {
	say "installing: $*"
	log=$(mktemp)
	if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y -o DPkg::Lock::Timeout=300 \
		--no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
		tail -n 20 "$log" >&2
		rm -f "$log"
		return 1
	fi
	rm -f "$log"
}

# private_apt ARGUMENT...: apt-get with a state, a cache and a list of installed packages (none) of its own.
private_apt() {
	apt-get -q -o Dir::State="$deps/apt/state" -o Dir::State::status="$deps/apt/status" \
		-o Dir::Cache="$deps/apt/cache" -o Dir::Log="$deps/apt/log" -o APT::Sandbox::User= \
		-o APT::Architectures="$(dpkg --print-architecture)" -o APT::Get::AllowUnauthenticated=false "$@"
}

# fetch PACKAGE...: downloads the packages with all they depend on, and unpacks them below .deps/root.
fetch() {
	say "no root, and packages are missing: fetching the toolchain into .deps (up to 700 MB)"
	mkdir -p "$deps/apt/state/lists/partial" "$deps/apt/cache/archives/partial" "$deps/apt/log" "$deps/root" "$deps/lib"
	: >"$deps/apt/status"
	touch "$deps/unpacked"
	if ! { private_apt update && private_apt install -y --no-install-recommends --download-only "$@"; } \
		>"$deps/log" 2>&1 </dev/null; then
		tail -n 20 "$deps/log" >&2
		return 1
	fi
	for deb in "$deps"/apt/cache/archives/*.deb; do
		grep -qxF "${deb##*/}" "$deps/unpacked" && continue
		dpkg-deb -x "$deb" "$deps/root" || return 1
		case ${deb##*/} in
		libc6_*) dpkg-deb --fsys-tarfile "$deb" | tar -t | sed 's,.*/,,' >"$deps/libc-files" ;;
		esac
		say "${deb##*/}" >>"$deps/unpacked"
	done
	link_libraries
}

# The libraries of .deps/root/lib that are not libc's own: the loader and libc must stay one pair, the system's.
link_libraries() {
	for file in "$deps/root/lib/$(multiarch)"/*.so*; do
		grep -qxF "${file##*/}" "$deps/libc-files" || ln -sf "$file" "$deps/lib/"
	done
}

# Makes everything that follows use the private toolchain. The binaries find its libraries by themselves, and these find
# each other: that takes the old kind of rpath, which holds for all that a program loads.
private_environment() {
	ma=$(multiarch)
	usr=$deps/root/usr
	PATH=$usr/bin:$deps/root/bin:$usr/sbin:$deps/root/sbin:$PATH
	LD_LIBRARY_PATH=$deps/lib:$usr/lib/$ma${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
	PKG_CONFIG_SYSROOT_DIR=$deps/root
	PKG_CONFIG_LIBDIR=$usr/lib/$ma/pkgconfig:$usr/lib/pkgconfig:$usr/share/pkgconfig
	LUA_PATH_5_4="$usr/share/lua/5.4/?.lua;$usr/share/lua/5.4/?/init.lua;;"
	LUA_CPATH_5_4="$usr/lib/$ma/lua/5.4/?.so;;"
	LATTICE_LUA_SHARE=$usr/share/lua/5.4
	LATTICE_LUA_LIB=$usr/lib/$ma/lua/5.4
	LUA_PATH="$usr/share/lua/5.1/?.lua;$usr/share/lua/5.1/?/init.lua;;"
	LUA_CPATH="$usr/lib/$ma/lua/5.1/?.so;;"
	LATTICE_CMAKE="-DCMAKE_SYSROOT=$deps/root -DCMAKE_C_COMPILER=$usr/bin/gcc
		-DCMAKE_BUILD_RPATH=$deps/lib;$usr/lib/$ma -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags"
	export PATH LD_LIBRARY_PATH PKG_CONFIG_SYSROOT_DIR PKG_CONFIG_LIBDIR LUA_PATH_5_4 LUA_CPATH_5_4 \
		LATTICE_LUA_SHARE LATTICE_LUA_LIB LUA_PATH LUA_CPATH LATTICE_CMAKE
}

# try_install GROUP...: as root, what of these groups is missing; without them some tests are skipped.
try_install() {
	is_root || return 0
	# shellcheck disable=SC2046 # one package a word
	lacking=$(missing $(packages "$@"))
	# shellcheck disable=SC2086
	[ -z "$lacking" ] || install $lacking || say "going on without them: some tests will be skipped"
}

# toolchain GROUP...: makes sure that the packages of these groups can be used, by the system or privately.
toolchain() {
	# shellcheck disable=SC2046 # one package a word
	set -- $(packages "$@")
	lacking=$(missing "$@")
	if [ -z "$lacking" ]; then
		LATTICE_TOOLCHAIN=system
	elif is_root; then
		# shellcheck disable=SC2086 # one package a word
		install $lacking || die "apt-get could not install the packages above"
		LATTICE_TOOLCHAIN=system
	else
		for package; do
			grep -qxF "$package" "$deps/have" 2>/dev/null && continue
			# libc6-dev and its kin need the libraries that a real system always has.
			fetch "$@" libc6 libgcc-s1 zlib1g libcap2 || die "the private toolchain could not be fetched (log: .deps/log)"
			printf '%s\n' "$@" >"$deps/have"
			break
		done
		private_environment
		LATTICE_TOOLCHAIN=private
	fi
	export LATTICE_TOOLCHAIN
}
