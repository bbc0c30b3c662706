// Copyright: The homelab.peer_relay contributors
// SPDX-License-Identifier: GPL-3.0-or-later
/*
 * Forwards WireGuard transport messages at TC ingress: looks up source, local address and receiver index, rewrites
 * addresses and ports, and sends the packet out. Whatever it is not sure about passes on to the relay's socket.
 *
 * peer_relay/kernel/table.py fills the map and has the same two structures. LINK is the size of the link header: that of
 * Ethernet, or 0 where there is none, as with PPP.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/types.h>
#include <linux/udp.h>

#define INLINE static inline __attribute__((always_inline))
#define be16(value) __builtin_bswap16(value)
#define be32(value) __builtin_bswap32(value)

enum {
	PASS = -1, /* to the next program, and in the end to the socket */
	DROP = 2,
	TRANSPORT_MIN_SIZE = 32,
	MAX_SEGMENTS = 128, /* of a train; the kernel's own limit is 64, or 128 since 6.8 */
};

/* IPv4 addresses are mapped ones (::ffff:a.b.c.d). */
struct key {
	__be32 source[4];
	__be32 local[4];
	__u32 index;
	__be16 source_port, local_port;
};

struct target {
	__be32 destination[4];
	__be32 local[4];
	__be16 destination_port, local_port;
	__u32 interface;
	__u32 mtu;
	/* Differences between these and the key's, for checksums: of the addresses, and of the ports. */
	__u32 addresses_change, ports_change;
	__u32 unused;
	__u64 packets, bytes, last;
};

/* The beginning of a transport message. */
struct message {
	__be32 type;
	__u32 index;
};

struct packet {
	__u32 header;  /* where the UDP header begins */
	__u32 payload; /* bytes in it */
};

/* The build script puts the map's number in place of its address, the loader a file descriptor in place of that. */
struct {
	int map;
} entries __attribute__((section("maps")));

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static __u64 (*clock)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static long (*load)(const void *skb, __u32 offset, void *to, __u32 size) = (void *)BPF_FUNC_skb_load_bytes;
static long (*pull)(struct __sk_buff *skb, __u32 size) = (void *)BPF_FUNC_skb_pull_data;
static long (*change_checksum)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 change, __u64 flags) =
	(void *)BPF_FUNC_l4_csum_replace;
static long (*change_sum)(struct __sk_buff *skb, __u32 change) = (void *)BPF_FUNC_csum_update;
static long (*add_head)(struct __sk_buff *skb, __u32 size, __u64 flags) = (void *)BPF_FUNC_skb_change_head;
static long (*redirect)(__u32 interface, void *hop, int hop_size, __u64 flags) = (void *)BPF_FUNC_redirect_neigh;

INLINE __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/*
 * Whether the whole train goes one way: all its segments are transport messages under one receiver index. Its UDP
 * checksum must be left to whoever cuts the train, that is, be the sum of the pseudo header. It is not where each
 * segment kept headers of its own (rx-gro-list), which cutting would not rewrite on all kernels and families.
 */
INLINE int one_way(struct __sk_buff *skb, const struct packet *packet, const struct key *key, __u16 checksum,
		   __u32 segment)
{
	__u32 start = packet->header + sizeof(struct udphdr), rest = packet->payload;
	__u64 sum = be32(IPPROTO_UDP) + (__u64)be32(packet->payload + sizeof(struct udphdr));
	struct message message;
	int number;

	for (number = 0; number < 4; number++)
		sum += (__u64)key->source[number] + key->local[number];
	/* A mapped IPv4 address begins with 0xffff, which is zero in this arithmetic. */
	if (fold(sum) != checksum || segment < TRANSPORT_MIN_SIZE)
		return 0;
	for (number = 0; number < MAX_SEGMENTS; number++) {
		if (rest < TRANSPORT_MIN_SIZE)
			return 0;
		if (load(skb, start, &message, sizeof(message)))
			return 0;
		if (message.type != be32(0x04000000) || message.index != key->index)
			return 0;
		if (rest <= segment)
			return 1;
		rest -= segment;
		start += segment;
	}
	return 0;
}

/* What the packet's way out is, or 0 if it is not ours. `fixed` is the size of the IP and UDP headers. */
INLINE struct target *find(struct __sk_buff *skb, const struct key *key, const struct packet *packet, __u16 checksum,
			   __u32 fixed)
{
	struct target *target = lookup(&entries, key);
	__u32 segment = skb->gso_size;
	__u32 count = 1;

	if (!target)
		return 0;
	if (segment) {
		if (segment + fixed > target->mtu || !one_way(skb, packet, key, checksum, segment))
			return 0;
		count = (packet->payload + segment - 1) / segment;
	} else if (packet->payload + fixed > target->mtu) {
		return 0;
	}
	__sync_fetch_and_add(&target->packets, count);
	__sync_fetch_and_add(&target->bytes, packet->payload);
	target->last = clock();
	return target;
}

/* The kernel knows whether the checksum is complete, or to be completed by whoever sends the packet. */
INLINE void correct_checksum(struct __sk_buff *skb, const struct packet *packet, const struct target *target)
{
	__u32 place = packet->header + __builtin_offsetof(struct udphdr, check);

	change_checksum(skb, place, 0, target->addresses_change, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0);
	if (target->ports_change)
		change_checksum(skb, place, 0, target->ports_change, BPF_F_MARK_MANGLED_0);
}

INLINE void rewrite_ports(struct udphdr *udp, const struct target *target)
{
	udp->source = target->local_port;
	udp->dest = target->destination_port;
}

/* The kernel takes an Ethernet header away when it sends: what came without one gets an empty one. */
INLINE int send(struct __sk_buff *skb, const struct target *target)
{
	if (!LINK && add_head(skb, ETH_HLEN, 0))
		return DROP;
	return redirect(target->interface, 0, 0, 0);
}

INLINE int forward_v4(struct __sk_buff *skb)
{
	const __u32 need = LINK + sizeof(struct iphdr) + sizeof(struct udphdr) + sizeof(struct message);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct packet packet = {.header = LINK + sizeof(struct iphdr)};
	struct target *target;
	struct message *message;
	struct udphdr *udp;
	struct iphdr *ip;
	struct key key;

	if (data + need > end) {
		if (pull(skb, need))
			return PASS;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		if (data + need > end)
			return PASS;
	}
	ip = data + LINK;
	udp = (void *)(ip + 1);
	message = (void *)(udp + 1);
	if (ip->protocol != IPPROTO_UDP || message->type != be32(0x04000000))
		return PASS;
	if (*(__u8 *)ip != 0x45 || ip->frag_off & be16(0x3fff) || ip->ttl <= 1)
		return PASS;
	packet.payload = be16(udp->len) - sizeof(*udp);
	if (skb->len != need - sizeof(*message) + packet.payload || ip->tot_len != be16(skb->len - LINK) ||
	    (__s32)packet.payload < TRANSPORT_MIN_SIZE)
		return PASS;

	key.source[0] = key.source[1] = key.local[0] = key.local[1] = 0;
	key.source[2] = key.local[2] = be32(0xffff);
	key.source[3] = ip->saddr;
	key.local[3] = ip->daddr;
	key.index = message->index;
	key.source_port = udp->source;
	key.local_port = udp->dest;
	target = find(skb, &key, &packet, udp->check, sizeof(*ip) + sizeof(*udp));
	if (!target)
		return PASS;

	correct_checksum(skb, &packet, target);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + need > end)
		return DROP; /* never: it was long enough before */
	ip = data + LINK;
	ip->saddr = target->local[3];
	ip->daddr = target->destination[3];
	ip->ttl--;
	/* The checksum is the complement of a sum from which the time to live has lost one. */
	ip->check = ~fold((__u64)(__u16)~ip->check + target->addresses_change + be16(0xfeff));
	rewrite_ports((void *)(ip + 1), target);
	return send(skb, target);
}

INLINE int forward_v6(struct __sk_buff *skb)
{
	const __u32 need = LINK + sizeof(struct ipv6hdr) + sizeof(struct udphdr) + sizeof(struct message);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct packet packet = {.header = LINK + sizeof(struct ipv6hdr)};
	struct target *target;
	struct message *message;
	struct udphdr *udp;
	struct ipv6hdr *ip;
	struct key key;

	if (data + need > end) {
		if (pull(skb, need))
			return PASS;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		if (data + need > end)
			return PASS;
	}
	ip = data + LINK;
	udp = (void *)(ip + 1);
	message = (void *)(udp + 1);
	if (ip->nexthdr != IPPROTO_UDP || message->type != be32(0x04000000))
		return PASS;
	if (*(__u8 *)ip >> 4 != 6 || ip->hop_limit <= 1 || !udp->check)
		return PASS;
	packet.payload = be16(udp->len) - sizeof(*udp);
	if (skb->len != need - sizeof(*message) + packet.payload || ip->payload_len != udp->len ||
	    (__s32)packet.payload < TRANSPORT_MIN_SIZE)
		return PASS;

	__builtin_memcpy(key.source, &ip->saddr, sizeof(key.source));
	__builtin_memcpy(key.local, &ip->daddr, sizeof(key.local));
	key.index = message->index;
	key.source_port = udp->source;
	key.local_port = udp->dest;
	target = find(skb, &key, &packet, udp->check, sizeof(*ip) + sizeof(*udp));
	if (!target)
		return PASS;

	correct_checksum(skb, &packet, target);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + need > end)
		return DROP;
	ip = data + LINK;
	__builtin_memcpy(&ip->saddr, target->local, sizeof(target->local));
	__builtin_memcpy(&ip->daddr, target->destination, sizeof(target->destination));
	ip->hop_limit--;
	rewrite_ports((void *)(ip + 1), target);
	/*
	 * Where the device has summed up the whole packet, changing the UDP checksum has changed that sum by the addresses,
	 * which is right only where a checksum of the IP header makes up for it. And nothing covers the hop limit.
	 */
	change_sum(skb, fold((__u64)target->addresses_change + be16(0xfffe)));
	return send(skb, target);
}

__attribute__((section("tc"))) int forward(struct __sk_buff *skb)
{
	/* A tag belongs to the VLAN's own interface, which the packet reaches next. */
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return PASS;
	if (skb->protocol == be16(ETH_P_IP))
		return forward_v4(skb);
	if (skb->protocol == be16(ETH_P_IPV6))
		return forward_v6(skb);
	return PASS;
}
