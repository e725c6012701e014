package idp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

const (
	// requestTime bounds one request to a provider, its answer included. A person is
	// waiting for it.
	requestTime = 5 * time.Second
	// maxAnswer bounds an answer, in bytes. Google's key set has about 2 KB.
	maxAnswer = 256 << 10
	// maxRedirects is within one host.
	maxRedirects = 3
)

var (
	errRedirect  = errors.New("a redirect to another host, or too many")
	errTooLarge  = errors.New("the answer is larger than 256 KiB")
	errPlainHTTP = errors.New("neither https nor http to this machine")
)

// newClient makes the HTTP client for providers: bounded in time and size, no
// redirect to another host. It keeps no connection, because requests are rare and
// an idle one would only be a goroutine to end.
func newClient() *http.Client {
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: requestTime}).DialContext,
		TLSHandshakeTimeout:    requestTime,
		ResponseHeaderTimeout:  requestTime,
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true,
		ForceAttemptHTTP2:      true,
	}
	return &http.Client{Transport: bounded{transport}, Timeout: requestTime, CheckRedirect: sameHost}
}

func sameHost(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if len(via) > maxRedirects || req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
		return errRedirect
	}
	return nil
}

// bounded refuses what no provider's URL may be, and cuts answers that are too large.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := checkURL(req.URL); err != nil {
		return nil, err
	}
	res, err := b.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = &limitedBody{body: res.Body, left: maxAnswer}
	return res, nil
}

// limitedBody fails, where io.LimitReader would end as if all had been read.
type limitedBody struct {
	body io.ReadCloser
	left int
}

func (l *limitedBody) Read(p []byte) (int, error) {
	n, err := l.body.Read(p)
	if l.left -= n; l.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

func (l *limitedBody) Close() error { return l.body.Close() }

// CheckURL refuses a base URL of a provider that is not https, or http to this
// machine; tests and a provider on the same host speak plain HTTP.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("not a URL of scheme, host and path alone")
	}
	return checkURL(u)
}

func checkURL(u *url.URL) error {
	if u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()) {
		return nil
	}
	return errPlainHTTP
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// get fetches a text, of whatever media type it says that it is: WeChat's JSON says
// text/plain. Its errors hold no URL: a query may be a secret.
func get(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, errors.New("the address is not a URL")
	}
	req.Header.Set("Accept", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer func() { _ = res.Body.Close() }() // all that matters was read
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %d", res.StatusCode)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, withoutURL(err)
	}
	return body, nil
}

// withoutURL is the cause of an error of net/http, which names the whole URL.
func withoutURL(err error) error {
	var named *url.Error
	if errors.As(err, &named) {
		return named.Err
	}
	return err
}
