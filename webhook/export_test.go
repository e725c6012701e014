package webhook

import (
	"net/http"
	"net/netip"
	"time"
)

// Allows reports whether a guard lets an address through.
func Allows(g Guard, ip netip.Addr) bool { return g.allows(ip) }

// Transport is a client's transport.
func Transport(c *Client) *http.Transport { return c.http.Transport.(*http.Transport) }

// Sign makes a message of a delivery.
func Sign(e Endpoint, d Delivery, keys [][]byte, at time.Time) (Message, error) {
	return sign(e, d, keys, at)
}

// ParseID reads a delivery's id.
func ParseID(id string) (int64, bool) { return parseID(id) }
