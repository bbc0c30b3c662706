// Copyright: The homelab.peer_relay contributors
// SPDX-License-Identifier: GPL-3.0-or-later
/*
 * Forwards WireGuard transport messages at TC ingress: looks up source, local address and receiver index, rewrites
 * addresses and ports, and sends the packet out. Whatever it is not sure about passes on to the relay's socket.
 *
 * peer_relay/dataplane/kernel/table.py fills the map and has the same two structures. LINK is the size of the link header: that of
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
	MAX_SEGMENTS = 64, /* of a train; what interfaces merge has no more */
};

/*
 * IPv4 addresses are mapped ones (::ffff:a.b.c.d). In words of 64 bits, as the key is made on the stack: the verifier of
 * Linux 6.1 takes the second half of such a word for an attack on the first one, unless the loader has CAP_PERFMON.
 */
struct key {
	__u64 source[2];
	__u64 local[2];
	__u64 index_and_ports; /* 32 bits of the index, source port, local port */
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

/* What else is known of a packet that may be ours. Apart from the key, so that the compiler keeps it in registers. */
struct packet {
	__u32 headers; /* bytes of the IP and UDP headers */
	__u32 payload; /* bytes behind them */
	__u16 checksum;
};

/* The loader puts the map's file descriptor in place of the address. */
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

/* Two words of 32 bits as they lie one behind the other in memory. */
INLINE __u64 pair(__u32 first, __u32 second)
{
	return (__u64)second << 32 | first;
}

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
INLINE int one_way(struct __sk_buff *skb, const struct key *key, const struct packet *packet, __u64 segment)
{
	__u64 message = pair(be32(0x04000000), (__u32)key->index_and_ports), found;
	__u64 start = LINK + packet->headers, rest = packet->payload;
	__u64 sum = (__u64)be32(IPPROTO_UDP) + be32(packet->payload + (__u32)sizeof(struct udphdr));
	int number;

	for (number = 0; number < 2; number++) {
		sum += (key->source[number] >> 32) + (__u32)key->source[number];
		sum += (key->local[number] >> 32) + (__u32)key->local[number];
	}
	/* A mapped IPv4 address begins with 0xffff, which is zero in this arithmetic. */
	if (fold(sum) != packet->checksum || segment < TRANSPORT_MIN_SIZE)
		return 0;
	/* Unrolled: Linux 6.1 does not come to an end with the loop, unless the loader has CAP_PERFMON. */
#pragma unroll 64
	for (number = 0; number < MAX_SEGMENTS; number++) {
		if (rest < TRANSPORT_MIN_SIZE || load(skb, start, &found, sizeof(found)) || found != message)
			return 0;
		if (rest <= segment)
			return 1;
		rest -= segment;
		start += segment;
	}
	return 0;
}

/* Where the packet goes, or 0 if that is not for us to say. */
INLINE struct target *find(struct __sk_buff *skb, const struct key *key, const struct packet *packet)
{
	struct target *target = lookup(&entries, key);
	__u32 segment = skb->gso_size;
	__u32 count = 1;

	if (!target)
		return 0;
	if (segment) {
		if (segment + packet->headers > target->mtu || !one_way(skb, key, packet, segment))
			return 0;
		count = (packet->payload + segment - 1) / segment;
	} else if (packet->payload + packet->headers > target->mtu) {
		return 0;
	}
	__sync_fetch_and_add(&target->packets, count);
	__sync_fetch_and_add(&target->bytes, packet->payload);
	target->last = clock();
	return target;
}

/* Look at what is the same in both families. `ip_size` is what the IP header says of everything behind it. */
INLINE int parse_udp(struct __sk_buff *skb, struct key *key, struct packet *packet, const struct udphdr *udp, __u16 ip_size)
{
	const struct message *message = (void *)(udp + 1);

	if (message->type != be32(0x04000000) || ip_size != be16(udp->len) ||
	    ip_size < sizeof(*udp) + TRANSPORT_MIN_SIZE || skb->len != LINK + packet->headers - sizeof(*udp) + ip_size)
		return 0;
	packet->payload = ip_size - sizeof(*udp);
	packet->checksum = udp->check;
	key->index_and_ports = pair(message->index, *(__u32 *)udp);
	return 1;
}

#define SIZE_V4 (sizeof(struct iphdr) + sizeof(struct udphdr))
#define SIZE_V6 (sizeof(struct ipv6hdr) + sizeof(struct udphdr))

INLINE int parse_v4(struct __sk_buff *skb, struct key *key, struct packet *packet)
{
	const __u32 need = LINK + SIZE_V4 + sizeof(struct message);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct iphdr *ip;

	if (data + need > end) {
		if (pull(skb, need))
			return 0;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		if (data + need > end)
			return 0;
	}
	ip = data + LINK;
	if (ip->protocol != IPPROTO_UDP || *(__u8 *)ip != 0x45 || ip->frag_off & be16(0x3fff) || ip->ttl <= 1)
		return 0;
	packet->headers = SIZE_V4;
	if (!parse_udp(skb, key, packet, (void *)(ip + 1), be16(ip->tot_len) - sizeof(*ip)))
		return 0;
	key->source[0] = key->local[0] = 0;
	key->source[1] = pair(be32(0xffff), ip->saddr);
	key->local[1] = pair(be32(0xffff), ip->daddr);
	return 1;
}

INLINE int parse_v6(struct __sk_buff *skb, struct key *key, struct packet *packet)
{
	const __u32 need = LINK + SIZE_V6 + sizeof(struct message);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct ipv6hdr *ip;
	const __u32 *words;

	if (data + need > end) {
		if (pull(skb, need))
			return 0;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		if (data + need > end)
			return 0;
	}
	ip = data + LINK;
	if (ip->nexthdr != IPPROTO_UDP || *(__u8 *)ip >> 4 != 6 || ip->hop_limit <= 1)
		return 0;
	packet->headers = SIZE_V6;
	if (!parse_udp(skb, key, packet, (void *)(ip + 1), be16(ip->payload_len)) || !packet->checksum)
		return 0;
	words = ip->saddr.in6_u.u6_addr32;
	key->source[0] = pair(words[0], words[1]);
	key->source[1] = pair(words[2], words[3]);
	words = ip->daddr.in6_u.u6_addr32;
	key->local[0] = pair(words[0], words[1]);
	key->local[1] = pair(words[2], words[3]);
	return 1;
}

/* The kernel knows whether the checksum is complete, or to be completed by whoever sends the packet. */
INLINE void correct_checksum(struct __sk_buff *skb, __u32 headers, const struct target *target)
{
	__u32 place = LINK + headers - sizeof(struct udphdr) + __builtin_offsetof(struct udphdr, check);

	change_checksum(skb, place, 0, target->addresses_change, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0);
	if (target->ports_change)
		change_checksum(skb, place, 0, target->ports_change, BPF_F_MARK_MANGLED_0);
}

INLINE void rewrite_ports(struct udphdr *udp, const struct target *target)
{
	udp->source = target->local_port;
	udp->dest = target->destination_port;
}

INLINE int rewrite_v4(struct __sk_buff *skb, const struct target *target)
{
	struct iphdr *ip;
	void *data;

	correct_checksum(skb, SIZE_V4, target);
	data = (void *)(long)skb->data;
	if (data + LINK + SIZE_V4 > (void *)(long)skb->data_end)
		return 0; /* never: it was there before */
	ip = data + LINK;
	ip->saddr = target->local[3];
	ip->daddr = target->destination[3];
	ip->ttl--;
	/* The checksum is the complement of a sum from which the time to live has lost one. */
	ip->check = ~fold((__u64)(__u16)~ip->check + target->addresses_change + be16(0xfeff));
	rewrite_ports((void *)(ip + 1), target);
	return 1;
}

INLINE int rewrite_v6(struct __sk_buff *skb, const struct target *target)
{
	struct ipv6hdr *ip;
	void *data;

	correct_checksum(skb, SIZE_V6, target);
	data = (void *)(long)skb->data;
	if (data + LINK + SIZE_V6 > (void *)(long)skb->data_end)
		return 0;
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
	return 1;
}

__attribute__((section("tc"))) int forward(struct __sk_buff *skb)
{
	int v4 = skb->protocol == be16(ETH_P_IP);
	struct target *target;
	struct packet packet;
	struct key key;

	/* A tag belongs to the VLAN's own interface, which the packet reaches next. */
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present || (!v4 && skb->protocol != be16(ETH_P_IPV6)))
		return PASS;
	if (!(v4 ? parse_v4(skb, &key, &packet) : parse_v6(skb, &key, &packet)))
		return PASS;
	target = find(skb, &key, &packet);
	if (!target)
		return PASS;
	if (!(v4 ? rewrite_v4(skb, target) : rewrite_v6(skb, target)))
		return DROP;
	/* The kernel takes an Ethernet header away when it sends: what came without one gets an empty one. */
	if (!LINK && add_head(skb, ETH_HLEN, 0))
		return DROP;
	return redirect(target->interface, 0, 0, 0);
}
