package webhook

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Guard is which addresses may be called. An endpoint's URL is an administrator's word,
// and whoever holds its name decides at each moment what it resolves to: neither may lead
// into our own network. The zero value lets public addresses through alone.
type Guard struct {
	Allowed  []netip.Prefix // networks that may be called although they are not public
	Loopback bool           // of --dev: this machine may be called, also without TLS
	Resolver Resolver       // default net.DefaultResolver
}

// Resolver finds the addresses of a name; [net.Resolver] is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const maxURL = 2048 // bytes

// CheckURL refuses what can be no endpoint, by its text alone: what its name resolves to
// is looked at whenever it is called. Any port is allowed, see decision 11.
func (g Guard) CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case len(text) > maxURL || err != nil || !u.IsAbs() || u.Opaque != "" || u.Hostname() == "":
		return invalid("url must be an absolute URL of at most 2048 characters.")
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }):
		return invalid("url must not contain spaces, control characters or backslashes.")
	case u.User != nil:
		return invalid("url must not contain a user name or a password.")
	case u.Fragment != "" || strings.HasSuffix(text, "#"):
		return invalid("url must not have a fragment.")
	case u.Port() != "" && !validPort(u.Port()):
		return invalid("url has no valid port.")
	case u.Scheme == "http" && g.Loopback && local(u.Hostname()):
		return nil
	case u.Scheme != "https":
		return invalid("url must begin with https://.")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !g.allows(ip) {
		return invalid("url names an address that is not public.")
	}
	return nil
}

func validPort(port string) bool {
	n, err := strconv.Atoi(port)
	return err == nil && n >= 1 && n <= 65535
}

// local reports whether a host is this machine by its text.
func local(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// errRefused: none of a name's addresses may be called.
var errRefused = errors.New("no public address")

// errResolve: a name has no address, or nobody says.
var errResolve = errors.New("the name cannot be resolved")

const connectTimeout = 5 * time.Second

// dial resolves, checks, and connects to a checked address: not to the name, which may
// mean another one a moment later.
func (g Guard) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	list, err := g.lookup(ctx, host)
	if err != nil {
		return nil, errors.Join(errResolve, err)
	}
	err = errRefused
	for _, ip := range list {
		if !g.allows(ip) || host == "localhost" && !ip.Unmap().IsLoopback() {
			continue
		}
		d := net.Dialer{Timeout: connectTimeout}
		var conn net.Conn
		if conn, err = d.DialContext(ctx, network, net.JoinHostPort(ip.String(), port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func (g Guard) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	r := g.Resolver
	if r == nil {
		r = net.DefaultResolver
	}
	return r.LookupNetIP(ctx, "ip", host)
}

// allows reports whether an address may be called.
func (g Guard) allows(ip netip.Addr) bool {
	if ip.Zone() != "" {
		return false
	}
	ip = ip.Unmap()
	if g.Loopback && ip.IsLoopback() {
		return true
	}
	for _, p := range g.Allowed {
		if p.Contains(ip) {
			return true
		}
	}
	if p := netip.MustParsePrefix(nat64); p.Contains(ip) {
		b := ip.As16()
		return public(netip.AddrFrom4([4]byte(b[12:])))
	}
	return public(ip)
}

// nat64 holds every IPv4 address in its last four bytes. [RFC 6052]
const nat64 = "64:ff9b::/96"

// public reports whether an address is one of the open network.
func public(ip netip.Addr) bool {
	if !ip.IsValid() {
		return false
	}
	if ip.Is6() && !netip.MustParsePrefix("2000::/3").Contains(ip) { // all that is global unicast
		return false
	}
	for _, p := range reserved {
		if netip.MustParsePrefix(p).Contains(ip) {
			return false
		}
	}
	return true
}

// reserved is what is not of the open network, or leads somewhere else than it says.
// [RFC 6890, IANA special-purpose address registries]
var reserved = []string{
	"0.0.0.0/8",        // this network; 0.0.0.0 reaches the machine itself
	"10.0.0.0/8",       // private
	"100.64.0.0/10",    // shared: behind a carrier's NAT, and metadata of a cloud
	"127.0.0.0/8",      // loopback
	"168.63.129.16/32", // metadata of a cloud at a public address
	"169.254.0.0/16",   // link-local; metadata of most clouds
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments; metadata of a cloud
	"192.0.2.0/24",     // documentation
	"192.88.99.0/24",   // 6to4 relays
	"192.168.0.0/16",   // private
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"224.0.0.0/4",      // multicast
	"240.0.0.0/4",      // reserved, broadcast
	"2001::/23",        // protocol assignments, Teredo among them
	"2001:db8::/32",    // documentation
	"2002::/16",        // 6to4: any IPv4 address within
	"3fff::/20",        // documentation
}
