/* The probes of the other files, for the table in caps.c. */
#ifndef LAT_KERNEL_CAPS_IMPL_H
#define LAT_KERNEL_CAPS_IMPL_H
#include <stddef.h>

/* caps_notify.c */
int lat_cap_notify(char *detail, size_t size);
int lat_cap_notify_addfd(char *detail, size_t size);
int lat_cap_notify_killable(char *detail, size_t size);
int lat_cap_notify_sync(char *detail, size_t size);
int lat_cap_pidfd_getfd(char *detail, size_t size);

/* caps_bpf.c */
int lat_cap_cgroup1(char *detail, size_t size);
int lat_cap_cgroup2(char *detail, size_t size);
int lat_cap_bpf_tc(char *detail, size_t size);
int lat_cap_bpf_cgroup(char *detail, size_t size);

/* caps_cgroup.c */
int lat_cap_limit_memory(char *detail, size_t size);
int lat_cap_limit_swap(char *detail, size_t size);
int lat_cap_limit_cpu(char *detail, size_t size);
int lat_cap_limit_pids(char *detail, size_t size);
int lat_cap_limit_io(char *detail, size_t size);

/* caps_tc.c */
int lat_cap_tcx(char *detail, size_t size);
int lat_cap_clsact(char *detail, size_t size);
int lat_cap_bpf_ring(char *detail, size_t size);
int lat_cap_bpf_lpm(char *detail, size_t size);
int lat_cap_bpf_swap(char *detail, size_t size);

/* caps_node.c */
int lat_cap_iptables_nft(char *detail, size_t size);
int lat_cap_iptables_legacy(char *detail, size_t size);
int lat_cap_nflog(char *detail, size_t size);
int lat_cap_ipset(char *detail, size_t size);
int lat_cap_wireguard(char *detail, size_t size);
int lat_cap_wireguard_go(char *detail, size_t size);

#endif
