# Process 1 of the guest, once it stands in the host's files: runs the command, keeps its status, and switches off.
# What the command prints goes out through a port of its own, apart from what the kernel says on the console.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
ip link set lo up
# all that the tests make the kernel ask for, in one process instead of one for each
modprobe -a nf_tables nft_chain_nat nft_ct nft_fib_inet nft_limit nft_log nft_masq nft_nat nft_numgen nft_hash nft_redir \
    nft_reject_inet nft_compat xt_conntrack ip_tables ip6_tables iptable_nat ip6table_nat nf_conntrack_netlink nfnetlink_log \
    veth dummy ip_vs ip_vs_rr ip_vs_wrr sctp || true
until port=$(ls /dev/vport*p1 2>/dev/null); do sleep 0.1; done # the driver announces it a little later
{
    # the first words tell the host that we are up
    echo "guest: Linux $(uname -r), up after $(cut -d. -f1 /proc/uptime) s"
    sh /run/guest/command.sh
} </dev/null >"$port" 2>&1
echo $? >/run/guest/status
echo o >/proc/sysrq-trigger
while :; do sleep 60; done
