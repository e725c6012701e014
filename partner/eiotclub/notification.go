package eiotclub

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"regexp"
	"strconv"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
)

// Reader verifies and reads the carrier's notifications. It is safe for concurrent use.
type Reader struct{ signer Signer }

var _ dataplan.NoticeReader = (*Reader)(nil)

// NewReader makes a reader. The signer's Secret is replaced by the given one, and the
// app key, which notifications are signed without, is excluded. [contracts E.1]
func NewReader(secret Secret, signer Signer) (*Reader, error) {
	if secret == "" {
		return nil, errors.New("eiotclub: notifications are signed with a secret")
	}
	signer.Secret = secret
	signer.Exclude = append([]string{"appkey"}, signer.Exclude...)
	return &Reader{signer}, nil
}

// The forms of the fields that decide something. The signature is over k=v joined by &:
// if a field could hold these characters, its text could be moved into another field
// under the same signature, an id into a longer one that was not seen before. Each of
// these fields must be there, and can hold no more than itself.
var (
	formName   = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)
	formID     = regexp.MustCompile(`^[A-Za-z0-9_.:/+-]{1,128}$`)
	formNonce  = regexp.MustCompile(`^[0-9]{1,10}$`)
	formTime   = regexp.MustCompile(`^[0-9]{1,13}$`)
	formNumber = regexp.MustCompile(`^[0-9]{5,32}$`)
	formText   = regexp.MustCompile(`^[^&=\x00-\x1f]{1,128}$`)
)

// kinds is what the carrier's events mean. [contracts E.1, E.3]
var kinds = map[string]dataplan.NoticeKind{
	"FlowAlert": dataplan.NoticeAlert, "CloudESimFlowAlert": dataplan.NoticeAlert,
	"SubPkgList": dataplan.NoticeOrdered, "CloudESimSubPkgList": dataplan.NoticeOrdered,
	"PkgEffective": dataplan.NoticeEffective, "CloudESimPkgActivate": dataplan.NoticeEffective,
	"CardStopped": dataplan.NoticeStopped,
	"Refund":      dataplan.NoticeRefunded, "CloudESimRefund": dataplan.NoticeRefunded,
}

// Read implements dataplan.NoticeReader.
func (r *Reader) Read(body []byte) (dataplan.Notice, error) {
	p, err := ParseParams(body)
	if err != nil {
		return dataplan.Notice{}, dataplan.ErrNoticePayload.With(err)
	}
	if err := r.signer.Verify(p); err != nil {
		return dataplan.Notice{}, dataplan.ErrNoticeSignature.With(err)
	}
	n, err := notice(p)
	if err != nil {
		return dataplan.Notice{}, dataplan.ErrNoticePayload.With(err)
	}
	return n, nil
}

// details are the fields of an order, as they are within data or beside it.
type details struct {
	ICCID        flexible `json:"iccid"`
	EID          flexible `json:"eid"`
	OutTradeNo   flexible `json:"outTradeNo"`
	OrderID      flexible `json:"orderId"`
	OrderNumber  flexible `json:"orderNumber"`
	PackageCode  flexible `json:"packageCode"`
	RefundAmount flexible `json:"refundAmount"`
	AlertType    flexible `json:"alert_type"`
	AlertValue   flexible `json:"alert_value"`
}

// or fills in what is not said from what is said elsewhere.
func (d details) or(more details) details {
	for _, f := range []struct {
		to   *flexible
		from flexible
	}{
		{&d.ICCID, more.ICCID},
		{&d.EID, more.EID},
		{&d.OutTradeNo, more.OutTradeNo},
		{&d.OrderID, more.OrderID},
		{&d.OrderNumber, more.OrderNumber},
		{&d.PackageCode, more.PackageCode},
		{&d.RefundAmount, more.RefundAmount},
		{&d.AlertType, more.AlertType},
		{&d.AlertValue, more.AlertValue},
	} {
		if *f.to == "" {
			*f.to = f.from
		}
	}
	return d
}

// form checks every field that is there.
func (d details) form() error {
	for _, f := range []struct {
		name  string
		value flexible
		form  *regexp.Regexp
	}{
		{"iccid", d.ICCID, formNumber},
		{"eid", d.EID, formNumber},
		{"outTradeNo", d.OutTradeNo, formID},
		{"orderId", d.OrderID, formID},
		{"orderNumber", d.OrderNumber, formID},
		{"packageCode", d.PackageCode, formText},
		{"refundAmount", d.RefundAmount, formText},
		{"alert_type", d.AlertType, formNonce},
		{"alert_value", d.AlertValue, formText},
	} {
		if f.value != "" && !f.form.MatchString(string(f.value)) {
			return errors.New(f.name + " has not the form that it must have")
		}
	}
	return nil
}

// notice reads parameters whose signature is good.
func notice(p Params) (dataplan.Notice, error) {
	for name := range p {
		if !formName.MatchString(name) {
			return dataplan.Notice{}, errors.New("a parameter has a name that is none")
		}
	}
	field := func(name string, form *regexp.Regexp) (string, error) {
		var f flexible
		_ = f.UnmarshalJSON(p[name]) // none: ""
		if !form.MatchString(string(f)) {
			return "", errors.New(name + " has not the form that it must have")
		}
		return string(f), nil
	}
	id, err1 := field("id", formID)
	event, err2 := field("event", formName)
	at, err3 := field("timestamp", formTime)
	_, err4 := field("nonce", formNonce)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return dataplan.Notice{}, err
	}
	unix, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return dataplan.Notice{}, err
	}
	d, list, err := contents(p)
	if err != nil {
		return dataplan.Notice{}, err
	}
	alert, _ := strconv.Atoi(string(d.AlertType)) // 0 when it is none
	n := dataplan.Notice{
		ID: id, Event: event, Kind: kinds[event], At: time.Unix(seconds(unix), 0).UTC(), Hash: digest(p),
		ICCID: dataplan.ICCID(d.ICCID), EID: dataplan.Number(d.EID),
		OutTradeNo: string(d.OutTradeNo), OrderID: first(d.OrderID, d.OrderNumber), PackageCode: string(d.PackageCode),
		AlertType: dataplan.AlertType(alert), AlertValue: string(d.AlertValue), RefundAmount: string(d.RefundAmount),
	}
	for _, o := range list {
		n.Orders = append(n.Orders, dataplan.NoticeOrder{
			ICCID: dataplan.ICCID(o.ICCID), EID: dataplan.Number(o.EID),
			OutTradeNo: string(o.OutTradeNo), OrderID: first(o.OrderID, o.OrderNumber), PackageCode: string(o.PackageCode),
		})
	}
	return n, nil
}

// digest is over what a notification says, without the parameters that are new each time
// that it is signed.
func digest(p Params) []byte {
	text := Signer{Hash: SHA256, LowerCase: true, KeepEmpty: true, Exclude: []string{"timestamp", "nonce", "appkey"}}.Sign(p)
	sum, _ := hex.DecodeString(text) // it is hex
	return sum
}

// maxOrders bounds the orders of one notification.
const maxOrders = 500

// contents reads the fields that are not every notification's: beside data, and within
// it, which is an object or a list of them.
func contents(p Params) (d details, list []details, err error) {
	text, err := json.Marshal(p)
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		return d, nil, err
	}
	var within oneOrMore[details]
	if raw := p["data"]; len(raw) > 0 && (raw[0] == '{' || raw[0] == '[') && json.Unmarshal(raw, &within) != nil {
		return d, nil, errors.New("data is no list of objects")
	}
	if len(within) > maxOrders {
		return d, nil, errors.New("data has more than 500 orders")
	}
	for _, o := range within {
		o = o.or(details{ICCID: d.ICCID, EID: d.EID})
		if err := o.form(); err != nil {
			return d, nil, err
		}
		list = append(list, o)
	}
	if len(list) > 0 {
		d = d.or(list[0])
	}
	return d, list, d.form()
}
