package broker

import (
	"net"
	"net/netip"
	"sync"
)

// roster knows every open connection and admits new ones.
type roster struct {
	max, perAddress int // 0: no limit

	mu     sync.Mutex
	closed bool
	conns  map[*Conn]struct{}
	origin map[netip.Prefix]int
	ended  sync.WaitGroup
}

func newRoster(l Limits) *roster {
	return &roster{
		max: l.MaxConnections, perAddress: l.MaxConnectionsPerAddress,
		conns: map[*Conn]struct{}{}, origin: map[netip.Prefix]int{},
	}
}

// origin is what connections are counted by: an IPv4 address or the /64 of an IPv6 address, since a single host there
// owns as many addresses as it likes. It is invalid, and exempt, for loopback and for what is no IP address.
func origin(addr net.Addr) netip.Prefix {
	var ip netip.Addr
	switch a := addr.(type) {
	case *net.TCPAddr:
		ip = a.AddrPort().Addr()
	default:
		if ap, err := netip.ParseAddrPort(addr.String()); err == nil {
			ip = ap.Addr()
		}
	}
	ip = ip.Unmap()
	if !ip.IsValid() || ip.IsLoopback() {
		return netip.Prefix{}
	}
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.WithZone("").Prefix(bits)
	return p
}

// full says why a connection from addr would be refused now; "" when it would not.
func (r *roster) full(addr net.Addr) refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fullFor(origin(addr))
}

func (r *roster) fullFor(from netip.Prefix) refusal {
	switch {
	case r.closed:
		return refusedDraining
	case r.max > 0 && len(r.conns) >= r.max:
		return refusedTotal
	case r.perAddress > 0 && from.IsValid() && r.origin[from] >= r.perAddress:
		return refusedAddress
	}
	return ""
}

// enter adds c, or says why it is refused. Whoever enters must leave.
func (r *roster) enter(c *Conn) refusal {
	from := origin(c.remote)
	r.mu.Lock()
	defer r.mu.Unlock()
	if why := r.fullFor(from); why != "" {
		return why
	}
	r.conns[c] = struct{}{}
	if from.IsValid() {
		r.origin[from]++
	}
	r.ended.Add(1)
	return ""
}

func (r *roster) leave(c *Conn) {
	from := origin(c.remote)
	r.mu.Lock()
	delete(r.conns, c)
	if from.IsValid() {
		if r.origin[from]--; r.origin[from] == 0 {
			delete(r.origin, from)
		}
	}
	r.mu.Unlock()
	r.ended.Done()
}

// has reports whether c is still open.
func (r *roster) has(c *Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.conns[c]
	return ok
}

// len is the number of open connections.
func (r *roster) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

// close admits nobody any more.
func (r *roster) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// all is a snapshot of the open connections.
func (r *roster) all() []*Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*Conn, 0, len(r.conns))
	for c := range r.conns {
		all = append(all, c)
	}
	return all
}
