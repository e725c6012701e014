package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Message is one attempt, ready to be sent.
type Message struct {
	URL        string
	ID         string // webhook-id
	Timestamp  time.Time
	Body       string
	Signatures string // of every secret, separated by a space
}

// Result is what came of an attempt.
type Result struct {
	Status     int           // HTTP status; 0: no answer
	RetryAfter time.Duration // what the receiver asks for; 0: nothing
	Error      string        // "" for 2xx, else a code in lower snake case
}

// Poster sends a message and returns when it knows what came of it; the context bounds it.
type Poster interface {
	Post(ctx context.Context, m Message) Result
}

// sign is the header webhook-signature of a message sent at a time, by each of the keys.
func sign(id, body string, keys [][]byte, at time.Time) (string, error) {
	var signatures []string
	for _, key := range keys {
		wh, err := standardwebhooks.NewWebhookRaw(key)
		if err != nil {
			return "", err
		}
		signature, err := wh.Sign(id, at, []byte(body))
		if err != nil {
			return "", err
		}
		signatures = append(signatures, signature)
	}
	return strings.Join(signatures, " "), nil
}

const (
	// maxAnswer is the most that is read of an answer. [contracts H]
	maxAnswer = 64 << 10
	// maxRetryAfter bounds how long a receiver may put us off.
	maxRetryAfter = time.Hour
)

// Client posts over HTTP. It is safe for concurrent use.
type Client struct{ http *http.Client }

// NewClient makes a Client that connects to what the guard allows alone: no proxy of the
// environment, no redirects, no compression that could blow up, no cookies.
func NewClient(g Guard) *Client {
	return &Client{&http.Client{
		Transport: &http.Transport{
			DialContext: g.dial, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: connectTimeout,
			DisableCompression: true, MaxResponseHeaderBytes: maxAnswer,
			MaxIdleConnsPerHost: laneWidth, MaxIdleConns: 2 * maxEndpoints, IdleConnTimeout: 30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Post implements Poster.
func (c *Client) Post(ctx context.Context, m Message) Result {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.URL, strings.NewReader(m.Body))
	if err != nil {
		return Result{Error: "bad_url"}
	}
	h := req.Header
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", "devicecloud-webhooks")
	h.Set(standardwebhooks.HeaderWebhookID, m.ID)
	h.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(m.Timestamp.Unix(), 10))
	h.Set(standardwebhooks.HeaderWebhookSignature, m.Signatures)
	res, err := c.http.Do(req)
	if err != nil {
		return Result{Error: failure(err)}
	}
	// Read, so that the connection can be used again; what it says is of no interest, and
	// the status is the answer even if the rest never comes.
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	_ = res.Body.Close()
	r := Result{Status: res.StatusCode}
	switch {
	case r.Status >= 300 && r.Status < 400:
		r.Error = "redirected"
	case r.Status < 200 || r.Status >= 400:
		r.Error, r.RetryAfter = "refused", retryAfter(res.Header.Get("Retry-After"), m.Timestamp)
	}
	return r
}

// failure names what kept a receiver from answering. The error itself may hold whatever
// its network says, and is not shown.
func failure(err error) string {
	var timeout net.Error
	var unknown *tls.CertificateVerificationError
	switch {
	case errors.Is(err, errRefused):
		return "address_refused"
	case errors.Is(err, errResolve):
		return "name_not_resolved"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.As(err, &unknown):
		return "certificate_not_valid"
	}
	return "connection_failed"
}

// retryAfter reads the header: seconds, or a date; at most an hour. [RFC 9110 10.2.3]
func retryAfter(text string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		wait = time.Duration(min(seconds, int64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return max(0, min(wait, maxRetryAfter))
}
