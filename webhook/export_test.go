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

// ParseID reads a delivery's id.
func ParseID(id string) (int64, bool) { return parseID(id) }

// SignText is the header webhook-signature of a message.
func SignText(id, body string, keys [][]byte, at time.Time) (string, error) {
	return sign(id, body, keys, at)
}
