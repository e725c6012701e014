package eiotclub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/opticworks/devicecloud/dataplan"
)

// URL is where the carrier answers.
const URL = "https://oapi.eiotclub.com"

const (
	// requestTime bounds one request, its answer included.
	requestTime = 15 * time.Second
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 1 << 20
	// usualPause is between requests: the carrier lets one account ask ten times a
	// second, counted where the requests arrive, not where they leave. [contracts E.1]
	usualPause = 105 * time.Millisecond
)

// The paths of the carrier's API. [contracts E.1]
const (
	pathOrder  = "/api/v3/package/orderPackage"
	pathOrders = "/api/v3/package/packageOrderRecord"
	pathCard   = "/api/v3/card/getCardsInfo"
)

// Options configures a [Client]. AppKey and Secret have no usable zero value.
type Options struct {
	AppKey  string
	Secret  Secret
	BaseURL string           // default [URL]
	Signer  Signer           // its Secret is replaced by the one above
	Success []string         // codes of an answer that mean success; default 200 and 10000
	Now     func() time.Time // default time.Now
	Timeout time.Duration    // of one request; default 15 s
	Between time.Duration    // between two requests; default 105 ms
}

// Client asks the carrier. It is safe for concurrent use. It sends at most ten requests
// a second; another process with the same account does not know of these, so that of
// several nodes one should be the one that orders.
type Client struct {
	opts   Options
	signer Signer
	http   *http.Client
	bucket *rate.Limiter
}

var _ dataplan.Carrier = (*Client)(nil)

// NewClient makes a client, without asking the carrier anything.
func NewClient(opts Options) (*Client, error) {
	if opts.AppKey == "" || opts.Secret == "" {
		return nil, errors.New("eiotclub: an account has an app key and a secret")
	}
	if opts.BaseURL == "" {
		opts.BaseURL = URL
	}
	if err := CheckURL(opts.BaseURL); err != nil {
		return nil, fmt.Errorf("eiotclub: the base URL is %w", err)
	}
	if len(opts.Success) == 0 {
		opts.Success = []string{"200", "10000"}
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Timeout <= 0 {
		opts.Timeout = requestTime
	}
	if opts.Between <= 0 {
		opts.Between = usualPause
	}
	signer := opts.Signer
	signer.Secret = opts.Secret
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: opts.Timeout}).DialContext,
		TLSHandshakeTimeout:    opts.Timeout,
		MaxResponseHeaderBytes: 64 << 10,
		// A connection for each request: on one that is used again, nobody could tell
		// whether a request that failed had arrived.
		DisableKeepAlives: true,
	}
	return &Client{
		opts: opts, signer: signer, bucket: rate.NewLimiter(rate.Every(opts.Between), 1),
		http: &http.Client{Transport: transport, Timeout: opts.Timeout, CheckRedirect: noRedirect},
	}, nil
}

// noRedirect: an order is not sent to wherever an answer says.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// CheckURL refuses a base URL that is not https, or http to this machine.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("not a URL of scheme, host and path alone")
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || err == nil && ip.IsLoopback()) {
		return nil
	}
	return errors.New("neither https nor http to this machine")
}

// Order implements dataplan.Carrier.
func (c *Client) Order(ctx context.Context, o dataplan.CarrierOrder) (string, error) {
	var out struct {
		OrderID     flexible `json:"orderId"`
		OrderNumber flexible `json:"orderNumber"`
	}
	err := c.ask(ctx, pathOrder, map[string]any{
		"iccid": string(o.ICCID), "packageCode": o.PackageCode, "outTradeNo": o.OutTradeNo,
	}, &out)
	return first(out.OrderID, out.OrderNumber), err
}

// Orders implements dataplan.Carrier. It asks for the states in the order in which an
// order goes through them, so that one that moves meanwhile is not missed.
func (c *Client) Orders(ctx context.Context, iccid dataplan.ICCID) ([]dataplan.CarrierRecord, error) {
	var all []dataplan.CarrierRecord
	for _, state := range []dataplan.CarrierState{dataplan.CarrierWaiting, dataplan.CarrierInUse, dataplan.CarrierDone} {
		var list oneOrMore[struct {
			OrderID     flexible `json:"orderId"`
			OrderNumber flexible `json:"orderNumber"`
			OutTradeNo  flexible `json:"outTradeNo"`
			PackageCode flexible `json:"packageCode"`
		}]
		if err := c.ask(ctx, pathOrders, map[string]any{"iccid": string(iccid), "state": int(state)}, &list); err != nil {
			return nil, err
		}
		for _, r := range list {
			all = append(all, dataplan.CarrierRecord{
				OrderID: first(r.OrderID, r.OrderNumber), OutTradeNo: string(r.OutTradeNo),
				PackageCode: string(r.PackageCode), State: state,
			})
		}
	}
	return all, nil
}

// Card implements dataplan.Carrier.
func (c *Client) Card(ctx context.Context, iccid dataplan.ICCID) (dataplan.Card, error) {
	var list oneOrMore[struct {
		ICCID   flexible `json:"iccid"`
		Status  flexible `json:"status"`
		Name    flexible `json:"card_status_str"`
		Used    flexible `json:"used"`  // bytes
		Total   flexible `json:"total"` // bytes
		Expires flexible `json:"expire_timestamp"`
	}]
	if err := c.ask(ctx, pathCard, map[string]any{"iccid": string(iccid)}, &list); err != nil {
		return dataplan.Card{}, err
	}
	for _, card := range list {
		if string(card.ICCID) != string(iccid) {
			continue // never another SIM's numbers
		}
		out := dataplan.Card{Status: status(string(card.Status)), UsedMB: -1}
		if out.Status == "" {
			out.Status = status(string(card.Name))
		}
		if used, ok := card.Used.number(); ok {
			out.UsedMB = used >> 20
		}
		if total, ok := card.Total.number(); ok {
			out.TotalMB = total >> 20
		}
		if at, ok := card.Expires.number(); ok && at > 0 {
			out.ExpiresAt = time.Unix(seconds(at), 0).UTC()
		}
		return out, nil
	}
	return dataplan.Card{}, dataplan.ErrCarrierRefused.With(errors.New("getCardsInfo: the SIM is not in the answer"))
}

// seconds is a Unix time that may be in milliseconds.
func seconds(at int64) int64 {
	if at > 1<<40 {
		return at / 1000
	}
	return at
}

// status is the carrier's word for the state of a SIM in ours; "" for one that we do
// not know. [contracts E.1]
func status(name string) dataplan.SIMStatus {
	switch strings.TrimSuffix(strings.ToUpper(name), "_NAME") {
	case "ACTIVATION_READY", "NON_ACTIVATED":
		return dataplan.SIMInactive
	case "ACTIVATED":
		return dataplan.SIMActive
	case "DEACTIVATED":
		return dataplan.SIMSuspended
	case "RETIRED":
		return dataplan.SIMRetired
	}
	return ""
}

// ask sends one request and reads the data of the answer into out. Its errors name the
// method and the carrier's code; never a parameter, an address or an answer.
func (c *Client) ask(ctx context.Context, path string, params map[string]any, out any) error {
	method := path[strings.LastIndexByte(path, '/')+1:]
	fail := func(kind error, cause string, args ...any) error {
		cause = method + ": " + fmt.Sprintf(cause, args...)
		if errors.Is(kind, dataplan.ErrCarrierRefused) {
			return dataplan.ErrCarrierRefused.With(errors.New(cause))
		}
		return dataplan.ErrCarrierUnavailable.With(errors.New(cause))
	}
	if err := c.bucket.Wait(ctx); err != nil {
		return fail(nil, "the wait for its turn ended")
	}
	body, err := c.body(params)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.opts.BaseURL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return fail(nil, "the base URL is none")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return fail(nil, "%v", withoutURL(err))
	}
	defer func() { _ = res.Body.Close() }() // all that matters was read
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fail(nil, "the answer was cut: %v", withoutURL(err))
	case len(text) > maxAnswer:
		return fail(nil, "the answer is larger than 1 MiB")
	case res.StatusCode != http.StatusOK:
		return fail(nil, "it answered %d", res.StatusCode)
	}
	var answer struct {
		Code flexible        `json:"code"`
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(text, &answer) != nil || answer.Code == "" {
		return fail(nil, "the answer is not the JSON that was agreed on")
	}
	if !c.success(string(answer.Code)) {
		return fail(dataplan.ErrCarrierRefused, "code %s", short(string(answer.Code)))
	}
	if len(answer.Data) == 0 || string(answer.Data) == "null" {
		return nil
	}
	if json.Unmarshal(answer.Data, out) != nil {
		return fail(nil, "the data is not what was agreed on")
	}
	return nil
}

// body is a request's JSON: the parameters, those that every request has, and the
// signature over the very bytes of each.
func (c *Client) body(params map[string]any) ([]byte, error) {
	params["appkey"] = c.opts.AppKey
	params["timestamp"] = c.opts.Now().Unix()
	params["nonce"] = 10000 + rand.IntN(90000) // five digits; it is no secret
	p := Params{}
	for name, value := range params {
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		if err := e.Encode(value); err != nil {
			return nil, err
		}
		p[name] = bytes.TrimSpace(text.Bytes())
	}
	p[signParam] = json.RawMessage(strconv.Quote(c.signer.Sign(p)))
	return json.Marshal(p)
}

func (c *Client) success(code string) bool {
	for _, good := range c.opts.Success {
		if code == good {
			return true
		}
	}
	return false
}

// short is a code of the carrier that is fit for a log.
func short(code string) string {
	if len(code) > 16 || strings.ContainsFunc(code, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "that is none"
	}
	return code
}

// withoutURL is the cause of an error of net/http, which names the whole URL.
func withoutURL(err error) error {
	var named *url.Error
	if errors.As(err, &named) {
		return named.Err
	}
	return err
}

// flexible is a text or a number: the carrier writes the same field either way.
type flexible string

// UnmarshalJSON takes what is neither as absent.
func (f *flexible) UnmarshalJSON(raw []byte) error {
	var text string
	switch {
	case json.Unmarshal(raw, &text) == nil:
		*f = flexible(text)
	case len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9'):
		*f = flexible(raw)
	default:
		*f = ""
	}
	return nil
}

// number is the whole part of a number that is not negative.
func (f flexible) number() (int64, bool) {
	n, err := strconv.ParseFloat(string(f), 64)
	if err != nil || !(n >= 0 && n < 1<<62) {
		return 0, false
	}
	return int64(n), true
}

func first(all ...flexible) string {
	for _, f := range all {
		if f != "" {
			return string(f)
		}
	}
	return ""
}

// oneOrMore is a list, or its only element alone.
type oneOrMore[T any] []T

// UnmarshalJSON reads either.
func (l *oneOrMore[T]) UnmarshalJSON(raw []byte) error {
	var list []T
	if json.Unmarshal(raw, &list) == nil {
		*l = list
		return nil
	}
	var one T
	if err := json.Unmarshal(raw, &one); err != nil {
		return err
	}
	*l = oneOrMore[T]{one}
	return nil
}
