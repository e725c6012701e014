package carrier

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// Field is one parameter of a notification. A value is a text, an int, or JSON as
// json.RawMessage.
type Field struct {
	Name  string
	Value any
}

// Notice makes the body of a signed notification. id "" makes one up.
func (s *Server) Notice(event, id string, fields ...Field) []byte {
	s.mu.Lock()
	s.notices++
	n := s.notices
	s.mu.Unlock()
	if id == "" {
		id = fmt.Sprintf("evt-%s-%d", s.appKey, n)
	}
	return s.signed(append([]Field{
		{"event", event}, {"id", id}, {"timestamp", int(s.opts.Now().Unix())}, {"nonce", 10000 + n%90000},
	}, fields...))
}

// signed is a JSON object of the fields, in their order, with their signature.
func (s *Server) signed(fields []Field) []byte {
	var pairs []string
	var body bytes.Buffer
	body.WriteByte('{')
	for _, f := range fields {
		var text string
		raw, _ := json.Marshal(f.Value) // texts and numbers
		switch v := f.Value.(type) {
		case string:
			text = v
		case int:
			text = strconv.Itoa(v)
		case json.RawMessage:
			text, raw = string(v), v // as it is: whoever gives it writes it without white space
		}
		if text != "" {
			pairs = append(pairs, f.Name+"="+text)
		}
		fmt.Fprintf(&body, "%q:%s,", f.Name, raw)
	}
	fmt.Fprintf(&body, "%q:%q}", "sign", s.sign(pairs))
	return body.Bytes()
}

// Post sends a notification to the target and returns what it answered.
func (s *Server) Post(body []byte) (status int, answer string, err error) {
	target := ""
	if s.opts.Target != nil {
		target = s.opts.Target()
	}
	if target == "" {
		return 0, "", nil
	}
	res, err := s.client.Post(target, "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }() // all that matters was read
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("the notification was answered %d", res.StatusCode)
	}
	return res.StatusCode, string(text), err
}

// Begin makes the package of an order begin, and tells of it: SubPkgList, then
// PkgEffective.
func (s *Server) Begin(orderID string) error {
	o, ok := s.move(orderID, 1)
	if !ok {
		return fmt.Errorf("there is no order %s", orderID)
	}
	if _, _, err := s.Post(s.Notice("SubPkgList", "", Field{"iccid", o.ICCID}, Field{"data", detail(o, true)})); err != nil {
		return err
	}
	_, _, err := s.Post(s.Notice("PkgEffective", "", Field{"iccid", o.ICCID}, Field{"data", detail(o, false)}))
	return err
}

// Refund gives the money for an order back, and tells of it.
func (s *Server) Refund(orderID string) error {
	o, ok := s.move(orderID, 2)
	if !ok {
		return fmt.Errorf("there is no order %s", orderID)
	}
	_, _, err := s.Post(s.Notice("Refund", "", Field{"iccid", o.ICCID}, Field{"outTradeNo", o.OutTradeNo}, Field{"orderAmount", "9.90"}, Field{"refundAmount", "9.90"}))
	return err
}

// Stop stops a SIM, and tells of it.
func (s *Server) Stop(iccid string) error {
	s.SetCard(iccid, Card{Status: "DEACTIVATED_NAME"})
	_, _, err := s.Post(s.Notice("CardStopped", "", Field{"iccid", iccid}))
	return err
}

// Alert tells that there is little left: 1 of the data, in MB; 2 of the data, in per
// cent; 3 of the time, in days.
func (s *Server) Alert(iccid string, kind int, left string) error {
	_, _, err := s.Post(s.Notice("FlowAlert", "", Field{"iccid", iccid}, Field{"alert_type", kind}, Field{"alert_value", left}))
	return err
}

func (s *Server) move(orderID string, state int) (Order, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.orders {
		if s.orders[i].ID == orderID {
			s.orders[i].State = state
			return s.orders[i], true
		}
	}
	return Order{}, false
}

// detail is an order within a notification, with what JSON encoders like to escape.
func detail(o Order, list bool) json.RawMessage {
	text := fmt.Sprintf(`{"packageName":"1GB/30天 <A&B>","packageCode":%q,"state":1,"packageType":"MAIN","orderId":%q,"outTradeNo":%q,"iccid":%q}`,
		o.PackageCode, o.ID, o.OutTradeNo, o.ICCID)
	if list {
		text = "[" + text + "]"
	}
	return json.RawMessage(text)
}

// Signed makes a body of nothing but the given parameters and their signature.
func (s *Server) Signed(fields ...Field) []byte { return s.signed(fields) }
