package dataplan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// carrierProvider is who the notifications of the one carrier are from.
const carrierProvider = "eiotclub"

// CarrierEvent is a notification of the carrier as it is remembered.
type CarrierEvent struct {
	Provider    string
	ID          string
	Event       string
	ICCID       ICCID
	Hash        []byte // of what it says
	Outcome     NoticeOutcome
	Notice      string // JSON, of one that nothing matched yet
	ReceivedAt  time.Time
	ProcessedAt time.Time
}

// NoticeOutcome is what became of a notification.
type NoticeOutcome string

// The outcomes. Only an unmatched one is looked at again.
const (
	OutcomeHandled   NoticeOutcome = "handled"
	OutcomeRepeated  NoticeOutcome = "repeated"  // another one has done the same
	OutcomeStale     NoticeOutcome = "stale"     // it tells of a time before what we know
	OutcomeRefused   NoticeOutcome = "refused"   // the purchase cannot go where it says
	OutcomeIgnored   NoticeOutcome = "ignored"   // it means nothing to us
	OutcomeUnmatched NoticeOutcome = "unmatched" // no SIM or purchase of ours
)

// TakeNotice verifies, remembers and obeys a notification of the carrier; duplicate means
// that it was taken before and did nothing now. Nothing is remembered of one that could
// not be obeyed: it comes again. from is the address that it came from.
//
// Errors, in this order: ErrWebhookNotConfigured, ErrNoticeAddress, ErrNoticePayload,
// ErrNoticeSignature, ErrNoticePayload, ErrNoticeStale, ErrNoticeReused,
// registry.ErrUnavailable. [contracts E.3]
func (s *Service) TakeNotice(ctx context.Context, a registry.Actor, from netip.Addr, body []byte) (duplicate bool, err error) {
	if s.opts.Notices == nil {
		s.counters.Unconfigured.Add(1)
		return false, ErrWebhookNotConfigured
	}
	n, err := s.readNotice(from, body)
	if err != nil {
		s.counters.NoticeRefused.Add(1)
		// The cause is ours: of a signature it tells the first characters. [seed 000 2.7]
		s.log.WarnContext(ctx, "a notification of the carrier was refused", "request_id", a.RequestID, "ip", a.IP, "error", err)
		return false, err
	}
	a = registry.Actor{Kind: registry.ActorSystem, RequestID: a.RequestID, IP: a.IP, UserAgent: a.UserAgent}
	// Most repetitions are found without a write.
	now := s.now()
	e := CarrierEvent{
		Provider: carrierProvider, ID: n.ID, Event: n.Event, ICCID: n.ICCID, Hash: n.Hash, Outcome: OutcomeIgnored, ReceivedAt: now, ProcessedAt: now,
	}
	known, err := s.knownNotice(ctx, e)
	if err == nil && !known {
		known, err = s.obey(ctx, a, &e, n)
	}
	switch {
	case errors.Is(err, ErrNoticeReused):
		return false, errors.Join(err, s.auditReuse(ctx, a, e))
	case err != nil:
		return false, err
	case known:
		s.counters.NoticeDuplicates.Add(1)
	default:
		s.counters.Notices.Add(1)
	}
	return known, nil
}

// readNotice does everything that needs no database.
func (s *Service) readNotice(from netip.Addr, body []byte) (Notice, error) {
	allowed := s.opts.NoticeAddresses
	if len(allowed) > 0 && !slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return p.Contains(from.Unmap()) }) {
		return Notice{}, ErrNoticeAddress
	}
	n, err := s.opts.Notices.Read(body)
	if err != nil {
		return Notice{}, err
	}
	if age := s.now().Sub(n.At); age > s.opts.NoticeWindow || age < -s.opts.NoticeWindow {
		return Notice{}, ErrNoticeStale
	}
	return n, nil
}

// knownNotice reports whether a notification was taken before; ErrNoticeReused when
// another one was, under its id.
func (s *Service) knownNotice(ctx context.Context, e CarrierEvent) (known bool, err error) {
	err = s.store.View(ctx, func(tx Tx) (err error) {
		known, err = sameNotice(ctx, tx, e)
		return err
	})
	return known, err
}

func sameNotice(ctx context.Context, tx Tx, e CarrierEvent) (bool, error) {
	before, there, err := tx.CarrierEvent(ctx, e.Provider, e.ID)
	if err == nil && there && !bytes.Equal(before.Hash, e.Hash) {
		err = ErrNoticeReused
	}
	return there, err
}

func (s *Service) auditReuse(ctx context.Context, a registry.Actor, e CarrierEvent) error {
	return s.store.InTx(ctx, func(tx Tx) error {
		return s.audit(ctx, tx, a, "", "id_reuse", map[string]any{"provider": e.Provider, "event_id": e.ID, "event": e.Event})
	})
}

// obey takes a notification that is new, in one transaction with what it does.
func (s *Service) obey(ctx context.Context, a registry.Actor, e *CarrierEvent, n Notice) (duplicate bool, err error) {
	var told []*registry.Change
	err = s.store.InTx(ctx, func(tx Tx) error {
		told, duplicate = nil, false
		fresh, err := tx.InsertCarrierEvent(ctx, *e)
		if err != nil {
			return err
		}
		if !fresh {
			duplicate, err = sameNotice(ctx, tx, *e)
			return err
		}
		told, err = s.apply(ctx, tx, a, e, n)
		return err
	})
	if err == nil {
		for _, c := range told {
			s.devices.Tell(c)
		}
	}
	return duplicate, err
}

// apply does what a notification says and writes what became of it.
func (s *Service) apply(ctx context.Context, tx Tx, a registry.Actor, e *CarrierEvent, n Notice) (told []*registry.Change, err error) {
	w := &noticeWork{s, ctx, tx, a, n, nil}
	e.Notice, e.ProcessedAt = "", s.now()
	if e.Outcome, err = w.do(); err != nil {
		return nil, err
	}
	if e.Outcome == OutcomeUnmatched {
		text, err := json.Marshal(storedNotice(n))
		if err != nil {
			return nil, err
		}
		e.Notice = string(text)
	}
	return w.told, tx.SettleCarrierEvent(ctx, *e)
}

// storedNotice is a notification whose numbers do not mask themselves: for the database.
func storedNotice(n Notice) map[string]any {
	orders := make([]map[string]string, 0, len(n.Orders))
	for _, o := range n.Orders {
		orders = append(orders, map[string]string{
			"iccid": string(o.ICCID), "eid": o.EID.Reveal(), "out_trade_no": o.OutTradeNo, "order_id": o.OrderID, "package": o.PackageCode,
		})
	}
	return map[string]any{
		"kind": n.Kind, "at": n.At, "iccid": string(n.ICCID), "eid": n.EID.Reveal(), "out_trade_no": n.OutTradeNo, "order_id": n.OrderID,
		"package": n.PackageCode, "alert_type": n.AlertType, "alert_value": n.AlertValue, "refund": n.RefundAmount, "orders": orders,
	}
}

// parseStored is the opposite of storedNotice.
func parseStored(e CarrierEvent) (Notice, error) {
	var in struct {
		Kind       NoticeKind
		At         time.Time
		ICCID      string
		EID        string
		OutTradeNo string `json:"out_trade_no"`
		OrderID    string `json:"order_id"`
		Package    string
		AlertType  AlertType `json:"alert_type"`
		AlertValue string    `json:"alert_value"`
		Refund     string
		Orders     []struct {
			ICCID, EID string
			OutTradeNo string `json:"out_trade_no"`
			OrderID    string `json:"order_id"`
			Package    string
		}
	}
	if err := json.Unmarshal([]byte(e.Notice), &in); err != nil {
		return Notice{}, err
	}
	n := Notice{
		ID: e.ID, Event: e.Event, Kind: in.Kind, At: in.At, Hash: e.Hash, ICCID: ICCID(in.ICCID), EID: Number(in.EID), OutTradeNo: in.OutTradeNo,
		OrderID: in.OrderID, PackageCode: in.Package, AlertType: in.AlertType, AlertValue: in.AlertValue, RefundAmount: in.Refund,
	}
	for _, o := range in.Orders {
		n.Orders = append(n.Orders, NoticeOrder{ICCID(o.ICCID), Number(o.EID), o.OutTradeNo, o.OrderID, o.Package})
	}
	return n, nil
}

// noticeWork obeys one notification in one transaction.
type noticeWork struct {
	*Service
	ctx  context.Context
	tx   Tx
	a    registry.Actor
	n    Notice
	told []*registry.Change // what listeners hear after the commit
}

func (w *noticeWork) do() (NoticeOutcome, error) {
	switch w.n.Kind {
	case NoticeAlert:
		return w.alert()
	case NoticeOrdered:
		return w.ordered()
	case NoticeEffective:
		return w.effective()
	case NoticeStopped:
		return w.stopped()
	case NoticeRefunded:
		return w.refunded()
	}
	return OutcomeIgnored, nil
}

func (w *noticeWork) sim() (SIM, bool, error) {
	if w.n.ICCID == "" && w.n.EID == "" {
		return SIM{}, false, nil
	}
	return w.tx.SIMByNumber(w.ctx, w.n.ICCID, w.n.EID)
}

// alert: there is little left. The people of the device hear of it.
func (w *noticeWork) alert() (NoticeOutcome, error) {
	sim, ok, err := w.sim()
	switch {
	case err != nil:
		return "", err
	case !ok:
		return OutcomeUnmatched, nil
	case w.n.At.Before(sim.StatusAt), w.n.At.Before(sim.AlertAt):
		return OutcomeStale, nil // of the package before
	}
	sim.AlertType, sim.AlertValue, sim.AlertAt, sim.UpdatedAt = w.n.AlertType, w.n.AlertValue, w.n.At, w.now()
	left, err := strconv.ParseFloat(w.n.AlertValue, 64)
	known := err == nil && left >= 0 && left < 1e9
	if known && !w.n.At.Before(sim.UsageAt) && sim.TotalMB > 0 {
		switch {
		case w.n.AlertType == AlertData && int64(left) <= sim.TotalMB:
			sim.UsedMB, sim.UsageAt = sim.TotalMB-int64(left), w.n.At
		case w.n.AlertType == AlertPercent && left <= 100:
			sim.UsedMB, sim.UsageAt = sim.TotalMB-int64(float64(sim.TotalMB)*left/100), w.n.At
		}
	}
	if known && left == 0 {
		switch w.n.AlertType {
		case AlertData, AlertPercent:
			sim.Status, sim.StatusAt = SIMExhausted, w.n.At
		case AlertDays:
			sim.Status, sim.StatusAt = SIMExpired, w.n.At
		}
	}
	if err := w.tx.UpdateSIM(w.ctx, sim); err != nil {
		return "", err
	}
	return OutcomeHandled, w.tell(sim, w.n.AlertType.String(), w.n.AlertValue)
}

// tell lets people and webhooks know of a SIM that needs them.
func (w *noticeWork) tell(sim SIM, alert, left string) error {
	err := w.audit(w.ctx, w.tx, w.a, sim.DeviceID, "sim_alert", map[string]any{"sim_id": sim.ID, "iccid": sim.ICCID, "alert": alert, "left": left, "status": sim.Status})
	if err != nil || sim.DeviceID == "" {
		return err
	}
	now := w.now()
	w.told = append(w.told, &registry.Change{Kind: registry.ChangeSIM, DeviceID: sim.DeviceID, At: now, SIM: &registry.SIMAlert{
		Alert: alert, Left: left, ICCID: sim.ICCID.Masked(), Status: string(sim.Status),
	}})
	return registry.Emit(w.ctx, w.tx, registry.OutboxEvent{
		ID: w.opts.NextID(), Type: registry.EventSIMAlert, DeviceID: sim.DeviceID, At: now,
		Data: map[string]any{"alert": alert, "left": left, "iccid": sim.ICCID.Masked(), "status": sim.Status},
	})
}

// ordered: the carrier took orders. It names them by our name or its own.
func (w *noticeWork) ordered() (NoticeOutcome, error) {
	matched := false
	for _, o := range w.n.Orders {
		p, attempt, ok, err := w.named(o.OutTradeNo, o.OrderID, o.ICCID)
		if err != nil {
			return "", err
		}
		if !ok {
			continue
		}
		matched = true
		if err := w.recordOrder(w.ctx, w.tx, &p, &attempt, o.OrderID, "reported by the carrier"); err != nil {
			return "", err
		}
	}
	if !matched {
		return OutcomeUnmatched, nil
	}
	return OutcomeHandled, nil
}

// named finds an order by its names, and its purchase; ok is false for one of another SIM.
func (w *noticeWork) named(outTradeNo, orderID string, iccid ICCID) (p Purchase, o OrderAttempt, ok bool, err error) {
	if o, ok, err = w.tx.OrderByName(w.ctx, outTradeNo, orderID); err != nil || !ok {
		return p, o, false, err
	}
	if p, err = w.tx.Purchase(w.ctx, o.PurchaseID); err != nil {
		return p, o, false, err
	}
	of := o.ICCID
	if of == "" {
		of = p.ICCID
	}
	return p, o, iccid == "" || of == "" || iccid == of, nil
}

// effective: a package began. It is found by the order's name, or else it is the oldest
// of this SIM and package that waits.
func (w *noticeWork) effective() (NoticeOutcome, error) {
	sim, known, err := w.sim()
	if err != nil {
		return "", err
	}
	iccid := w.n.ICCID
	if known {
		iccid = sim.ICCID
	}
	p, o, ok, err := w.named(w.n.OutTradeNo, w.n.OrderID, iccid)
	if err == nil && !ok && o.OutTradeNo == "" && w.n.OutTradeNo == "" && iccid != "" {
		p, o, ok, err = w.waitingFor(iccid)
	}
	if err != nil {
		return "", err
	}
	if !ok {
		return OutcomeUnmatched, nil
	}
	if o.OrderID == "" {
		o.OrderID = w.n.OrderID
	}
	order := w.n.OrderID
	if order == "" {
		order = o.OutTradeNo
	}
	first, err := w.tx.TakeCarrierEffect(w.ctx, "effective:"+string(p.ICCID)+":"+order, w.n.ID, w.now())
	if err != nil {
		return "", err
	}
	if !first || !o.BeganAt.IsZero() {
		return OutcomeRepeated, nil
	}
	if err := w.began(w.ctx, w.tx, &p, &o, w.n.At, "the carrier reports that the package runs"); err != nil {
		return "", err
	}
	if p.Stage != Active && p.Stage != Expired {
		return OutcomeRefused, nil // it counts when it is paid
	}
	return OutcomeHandled, nil
}

// signedWithin is how far the carrier's clock may be from ours.
const signedWithin = time.Minute

func (w *noticeWork) waitingFor(iccid ICCID) (p Purchase, o OrderAttempt, ok bool, err error) {
	list, err := w.tx.PurchasesOfSIM(w.ctx, iccid)
	if err != nil {
		return p, o, false, err
	}
	for _, stage := range []Status{Ordering, Paid} {
		for _, p := range list {
			if p.Stage == stage && (w.n.PackageCode == "" || w.n.PackageCode == p.Plan.CarrierPackage) {
				o, _, err := w.tx.OrderByName(w.ctx, p.OutTradeNo, "")
				return p, o, err == nil, err
			}
		}
	}
	renewals, err := w.tx.OpenRenewals(w.ctx, iccid)
	if err != nil {
		return p, o, false, err
	}
	for _, o := range renewals {
		if p, err = w.tx.Purchase(w.ctx, o.PurchaseID); err != nil {
			return p, o, false, err
		}
		since := o.StartsAt
		if o.SentAt.After(since) {
			since = o.SentAt
		}
		if w.n.At.Before(since.Add(-signedWithin)) {
			continue // it tells of the package before
		}
		if w.n.PackageCode == "" || w.n.PackageCode == p.Plan.CarrierPackage {
			return p, o, true, nil
		}
	}
	return Purchase{}, OrderAttempt{}, false, nil
}

// stopped: the carrier stopped a SIM; what had begun on it until then has ended.
func (w *noticeWork) stopped() (NoticeOutcome, error) {
	sim, ok, err := w.sim()
	switch {
	case err != nil:
		return "", err
	case !ok:
		return OutcomeUnmatched, nil
	}
	list, err := w.tx.PurchasesOfSIM(w.ctx, sim.ICCID)
	if err != nil {
		return "", err
	}
	stale := w.n.At.Before(sim.StatusAt) // a package has begun since, or something else was said
	now := w.now()
	if w.n.At.After(sim.StoppedAt) {
		sim.StoppedAt = w.n.At // also when what had begun until then is reported later
	}
	if !stale {
		sim.Status, sim.StatusAt, sim.UpdatedAt = SIMSuspended, w.n.At, now
		if !sim.PlanEndsAt.IsZero() && !sim.PlanEndsAt.After(now) {
			sim.Status = SIMExpired
		}
	}
	for _, p := range list {
		if p.Stage != Active {
			continue
		}
		last, err := lastBegan(w.ctx, w.tx, p, sim.ICCID)
		if err != nil {
			return "", err
		}
		if last.After(w.n.At) {
			continue
		}
		stale = false
		if _, err := w.advance(w.ctx, w.tx, w.a, &p, Expired, "the carrier stopped the SIM"); err != nil {
			return "", err
		}
	}
	if err := w.tx.UpdateSIM(w.ctx, sim); err != nil {
		return "", err
	}
	if stale {
		return OutcomeStale, nil
	}
	return OutcomeHandled, w.tell(sim, "stopped", "")
}

// refunded: the carrier gave the money for a package back, and with it the service ends.
func (w *noticeWork) refunded() (NoticeOutcome, error) {
	p, o, ok, err := w.named(w.n.OutTradeNo, w.n.OrderID, "")
	if err != nil {
		return "", err
	}
	if !ok {
		return OutcomeUnmatched, nil
	}
	now := w.now()
	first, err := w.tx.TakeCarrierEffect(w.ctx, "refund:"+o.OutTradeNo, w.n.ID, now)
	if err != nil {
		return "", err
	}
	if !first {
		return OutcomeRepeated, nil
	}
	o.RefundedAt = now
	if o.SentAt.IsZero() {
		o.ICCID, o.DueAt, o.LeaseUntil, o.SentAt = p.ICCID, now, now, now
	}
	if err := w.tx.PutCarrierOrder(w.ctx, o); err != nil {
		return "", err
	}
	active := p.Stage == Active
	if _, err := w.advance(w.ctx, w.tx, w.a, &p, p.Stage, "the carrier refunded the order"); err != nil {
		return "", err
	}
	sim, ok, err := w.tx.SIMByNumber(w.ctx, p.ICCID, "")
	if err != nil || !ok || !active || p.Status != Refunded || w.n.At.Before(sim.StatusAt) {
		return OutcomeHandled, err
	}
	sim.Status, sim.StatusAt, sim.PlanEndsAt, sim.UpdatedAt = SIMExpired, w.n.At, now, now
	return OutcomeHandled, w.tx.UpdateSIM(w.ctx, sim)
}

const (
	// unmatchedFor is how long a notification that nothing matched is tried again.
	unmatchedFor = 30 * 24 * time.Hour
	// noticesFor is how long notifications are remembered: longer than any is repeated.
	noticesFor = 400 * 24 * time.Hour
	// refreshEvery is how often the carrier is asked about a SIM, refreshAtOnce how many
	// of them in one reconciliation.
	refreshEvery  = 24 * time.Hour
	refreshAtOnce = 500
)

// ReconcileCarrier does what got lost between us and the carrier: notifications that came
// before what they tell of, and SIMs that it has not spoken of for a day. What became of
// orders is asked by [Service.Fulfil].
func (s *Service) ReconcileCarrier(ctx context.Context) error {
	failed := []error{s.matchNotices(ctx)}
	var old []SIM
	err := s.store.View(ctx, func(tx Tx) (err error) {
		old, err = tx.SIMsToRefresh(ctx, s.now().Add(-refreshEvery), refreshAtOnce)
		return err
	})
	failed = append(failed, err)
	for _, sim := range old {
		if s.opts.Carrier == nil || ctx.Err() != nil {
			break
		}
		if _, err := s.refresh(ctx, registry.System(), sim); errors.Is(err, ErrCarrierUnavailable) {
			failed = append(failed, err)
			break // it will not know the others either
		}
	}
	failed = append(failed, s.store.InTx(ctx, func(tx Tx) error {
		_, err := tx.DeleteCarrierEvents(ctx, s.now().Add(-noticesFor), 1000)
		return err
	}))
	return errors.Join(failed...)
}

// matchNotices tries again what nothing matched. One that fails holds up none of the
// others.
func (s *Service) matchNotices(ctx context.Context) error {
	var failed []error
	for after := s.now().Add(-unmatchedFor); ; {
		var list []CarrierEvent
		err := s.store.View(ctx, func(tx Tx) (err error) {
			list, err = tx.UnmatchedCarrierEvents(ctx, after, fulfilPage)
			return err
		})
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		for _, e := range list {
			if err := s.match(ctx, e); err != nil {
				failed = append(failed, fmt.Errorf("notification %s: %w", e.ID, err))
			}
		}
		if len(list) < fulfilPage || ctx.Err() != nil {
			return errors.Join(failed...)
		}
		after = list[len(list)-1].ReceivedAt
	}
}

func (s *Service) match(ctx context.Context, e CarrierEvent) error {
	n, err := parseStored(e)
	if err != nil {
		return err
	}
	var told []*registry.Change
	err = s.store.InTx(ctx, func(tx Tx) error {
		told = nil
		now, there, err := tx.CarrierEvent(ctx, e.Provider, e.ID)
		if err != nil || !there || now.Outcome != OutcomeUnmatched {
			return err
		}
		told, err = s.apply(ctx, tx, registry.System(), &e, n)
		return err
	})
	if err == nil {
		for _, c := range told {
			s.devices.Tell(c)
		}
	}
	return err
}
