package broker

import (
	"runtime"
	"time"
)

// Limits bounds what strangers and clients can make the broker do. In every field zero means the default named beside
// it and a negative value switches the limit off.
type Limits struct {
	// MaxConnections is the number of connections open at once on all listeners together. Default 100,000. One more
	// is closed before TLS.
	MaxConnections int
	// MaxConnectionsPerAddress is the number of connections open at once from one IPv4 address or one IPv6 /64.
	// Default 200. Loopback is exempt. One more is closed before TLS and costs nothing of AcceptRate.
	MaxConnectionsPerAddress int
	// AcceptRate is the number of connections a second that are let in, all listeners together. Default 2,000. Above
	// it TCP connections wait in the kernel's accept queue, where they cost no memory and no CPU of ours and the
	// client merely sees a slower handshake; WebSocket connections, which an HTTP server has accepted already, are
	// answered 503.
	AcceptRate float64
	// AcceptBurst is the number of connections that may come at once before AcceptRate counts. Default a tenth of
	// AcceptRate, at least 1.
	AcceptBurst int
	// ConnectTimeout is the time from accept to a complete CONNECT, TLS included. Default 5 s.
	ConnectTimeout time.Duration
	// TLSHandshakeTimeout is the part of ConnectTimeout that the TLS handshake may use. Default all of it.
	TLSHandshakeTimeout time.Duration
	// MaxHandshakes is the number of TLS handshakes that compute at once; one that waits for its client does not
	// count, so silent clients hold nobody up. Default the number of CPUs, at least 2.
	MaxHandshakes int
	// MaxPreAuthPacket is the largest packet, header included, of a client that is not authenticated. Default 4 KiB.
	MaxPreAuthPacket int
	// MaxPacket is the largest packet, header included, of an authenticated client. Default 128 KiB.
	MaxPacket int
	// WriteQueue is how many bytes may wait for a client that reads slowly before its connection is closed. The
	// packet that crosses the limit is still taken. Default 64 KiB.
	WriteQueue int
	// WriteStall is how long such a client may read nothing at all. Default 20 s.
	WriteStall time.Duration
	// DrainRate is how many sessions a second Shutdown ends, so that a fleet does not return all at once.
	// Default 500. Off: all at once.
	DrainRate float64
	// DrainTime caps the pacing: a fleet too large for DrainRate is ended faster, within this time. Default 20 s.
	// Off: DrainRate holds whatever the time.
	DrainTime time.Duration
}

// The largest packet MQTT can express: five bytes of header and 256 MiB - 1 [MQTT-2.1.4].
const largestPacket = 5 + 268_435_455

// effective returns l with every default filled in and every limit that is off as the zero value, packet sizes
// excepted: those always have a bound.
func (l Limits) effective() Limits {
	set(&l.MaxConnections, 100_000)
	set(&l.MaxConnectionsPerAddress, 200)
	set(&l.AcceptRate, 2_000)
	set(&l.AcceptBurst, max(1, int(l.AcceptRate/10)))
	set(&l.ConnectTimeout, 5*time.Second)
	set(&l.TLSHandshakeTimeout, l.ConnectTimeout)
	set(&l.MaxHandshakes, max(2, runtime.GOMAXPROCS(0)))
	set(&l.MaxPreAuthPacket, 4<<10)
	set(&l.MaxPacket, 128<<10)
	set(&l.WriteQueue, 64<<10)
	set(&l.WriteStall, 20*time.Second)
	set(&l.DrainRate, 500)
	set(&l.DrainTime, 20*time.Second)
	if l.MaxPreAuthPacket == 0 {
		l.MaxPreAuthPacket = largestPacket
	}
	if l.MaxPacket == 0 {
		l.MaxPacket = largestPacket
	}
	return l
}

// set gives *v its default when it is zero, and zero (off) when it is negative.
func set[T int | float64 | time.Duration](v *T, otherwise T) {
	switch {
	case *v == 0:
		*v = otherwise
	case *v < 0:
		*v = 0
	}
}
