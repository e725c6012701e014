package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net/mail"
	"strings"
	"time"
	"unicode/utf8"
)

// Order is one order line: this MAC was sold to this e-mail. [seed 003 4.4]
type Order struct {
	OrderID      string
	DeviceMAC    MAC
	UserEmail    string // normalised
	ShippedAt    time.Time
	LinkedAt     time.Time
	LinkedUserID string
	CreatedAt    time.Time
}

// OrderRequest is an order line as a shop sends it. ShippedAt is RFC 3339 or a
// date, "" while the order has not left.
type OrderRequest struct {
	OrderID   string
	UserEmail string
	DeviceMAC string
	ShippedAt string
}

// NormalizeEmail is an e-mail address as it is compared: trimmed and in lower case.
// Invalid when it is not an address of at most 254 bytes.
func NormalizeEmail(s string) (string, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	a, err := mail.ParseAddress(s)
	if err != nil || a.Address != s || len(s) > 254 || !printable(s) {
		return "", E(Invalid, "invalid_email", "This is not an e-mail address.")
	}
	return s, nil
}

func (req OrderRequest) order(now time.Time) (Order, error) {
	o := Order{OrderID: strings.TrimSpace(req.OrderID), CreatedAt: now}
	if n := utf8.RuneCountInString(o.OrderID); n < 1 || n > 64 || !printable(o.OrderID) {
		return o, E(Invalid, ErrInvalidRequest.Code, "order_id must be a text of 1 to 64 printable characters.")
	}
	var err error
	if o.UserEmail, err = NormalizeEmail(req.UserEmail); err != nil {
		return o, err
	}
	if o.DeviceMAC, err = ParseMAC(req.DeviceMAC); err != nil {
		return o, E(Invalid, errBadMAC.Code, "device_mac must be six hex pairs, like AA:BB:CC:DD:EE:FF.")
	}
	if req.ShippedAt != "" {
		if o.ShippedAt, err = parseTime(req.ShippedAt); err != nil {
			return o, E(Invalid, ErrInvalidRequest.Code, "shipped_at must be a date or an RFC 3339 time.")
		}
	}
	return o, nil
}

func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t, err = time.Parse(time.DateOnly, s)
	}
	return t.UTC(), err
}

// CreateOrder writes one order line; created is false when it was there already.
// A device that has provisioned before its order arrived is linked at once. Errors:
// Invalid, ErrOrderExists, Forbidden.
func (r *Registry) CreateOrder(ctx context.Context, a Actor, req OrderRequest) (o Order, created bool, err error) {
	if err := adminOrService(a, ScopeOrderWrite); err != nil {
		return Order{}, false, err
	}
	if o, err = req.order(r.now()); err != nil {
		return Order{}, false, err
	}
	var links links
	err = r.change(ctx, func(tx Tx) error {
		links = nil
		var user string
		if created, user, err = r.putOrder(ctx, tx, a, o); user != "" {
			links.add(r, o, user)
		}
		return err
	}, func() []*Change { return links.changes(r.now()) })
	if err == nil {
		r.linked(links)
	}
	return o, created, err
}

// links are the devices that purchases gave to people in one transaction.
type links []struct{ deviceID, userID string }

func (l *links) add(r *Registry, o Order, userID string) {
	*l = append(*l, struct{ deviceID, userID string }{o.DeviceMAC.DeviceID(r.opts.Salt), userID})
}

func (l links) changes(at time.Time) (all []*Change) {
	for _, link := range l {
		all = append(all, claimedChange(link.deviceID, link.userID, viaPurchase, at))
	}
	return all
}

func claimedChange(deviceID, userID, via string, at time.Time) *Change {
	return &Change{Kind: ChangeClaimed, DeviceID: deviceID, At: at, ClaimedVia: via, users: []string{userID}}
}

// linked tells the world of committed links.
func (r *Registry) linked(links links) {
	for _, link := range links {
		r.counters.Claims.Add(1)
		r.AccessChanged(link.userID)
	}
}

// viaPurchase is how a device came to its owner.
const viaPurchase = "purchase"

func (r *Registry) putOrder(ctx context.Context, tx Tx, a Actor, o Order) (created bool, linked string, err error) {
	created, err = tx.InsertOrder(ctx, o)
	if err != nil {
		return false, "", err
	}
	if created {
		deviceID := o.DeviceMAC.DeviceID(r.opts.Salt)
		if err := r.audit(ctx, tx, a, deviceID, "order_recorded", map[string]any{"order_id": o.OrderID}); err != nil {
			return false, "", err
		}
	}
	d, err := tx.DeviceByMAC(ctx, o.DeviceMAC)
	switch {
	case KindOf(err) == NotFound:
		return created, "", nil
	case err != nil:
		return false, "", err
	case d.ProvisionedAt.IsZero() || d.SelfEnrolled || d.EverOwned:
		return created, "", nil
	}
	linked, err = r.linkByPurchase(ctx, tx, a, d, r.now())
	return created, linked, err
}

// linkByPurchase gives a device that was never owned to the person whose verified
// e-mail its order names, if there is one with room for it. One order line links
// once. It returns the new owner, or "".
func (r *Registry) linkByPurchase(ctx context.Context, tx Tx, a Actor, d Device, now time.Time) (string, error) {
	o, ok, err := tx.OpenOrder(ctx, d.MAC)
	if err != nil || !ok {
		return "", err
	}
	user, ok, err := tx.UserByVerifiedEmail(ctx, o.UserEmail)
	if err != nil || !ok {
		return "", err // nobody yet: linked at that person's first verified login
	}
	linked, err := r.link(ctx, tx, a, d, o, user, now)
	if err != nil || !linked {
		return "", err
	}
	return user, nil
}

func (r *Registry) link(ctx context.Context, tx Tx, a Actor, d Device, o Order, user string, now time.Time) (bool, error) {
	changed, err := tx.InsertOwner(ctx, Ownership{
		DeviceNo: d.No, UserID: user, Role: RoleOwner, ClaimedAt: now, ClaimedVia: viaPurchase, At: now,
	}, r.opts.MaxDevicesPerUser)
	if errors.Is(err, ErrDeviceLimit) {
		data, err := json.Marshal(map[string]any{"order_id": o.OrderID, "limit": r.opts.MaxDevicesPerUser})
		if err != nil {
			return false, err
		}
		e := Event{ID: r.opts.NextID(), DeviceNo: d.No, Type: "order.device_limit_reached", OccurredAt: now, Data: string(data)}
		return false, tx.InsertEvent(ctx, e, keepEvents)
	}
	if err != nil || !changed {
		return false, err
	}
	if _, err := tx.LinkOrder(ctx, o.OrderID, o.DeviceMAC, user, now); err != nil {
		return false, err
	}
	if err := r.firstOwned(ctx, tx, d, now); err != nil {
		return false, err
	}
	if err := r.emit(ctx, tx, EventClaimed, d.ID, now, map[string]any{"owner_user_id": user, "via": viaPurchase}); err != nil {
		return false, err
	}
	return true, r.audit(ctx, tx, a, d.ID, "claimed", map[string]any{"user_id": user, "via": viaPurchase, "order_id": o.OrderID})
}

// LinkOrders gives a person the provisioned devices that were bought with this
// verified, normalised e-mail before the person existed, and says how many. The domain of
// people calls it in the transaction of a first verified login, and done after the commit.
func (r *Registry) LinkOrders(ctx context.Context, tx Tx, userID, email string) (linked int, done func(), err error) {
	orders, err := tx.OpenOrdersFor(ctx, email)
	if err != nil {
		return 0, nil, err
	}
	var made links
	actor := Actor{Kind: ActorUser, ID: userID}
	for _, o := range orders {
		d, err := tx.DeviceByMAC(ctx, o.DeviceMAC)
		if KindOf(err) == NotFound {
			continue
		}
		if err != nil {
			return 0, nil, err
		}
		if d.ProvisionedAt.IsZero() || d.SelfEnrolled || d.EverOwned {
			continue
		}
		ok, err := r.link(ctx, tx, actor, d, o, userID, r.now())
		if err != nil {
			return 0, nil, err
		}
		if ok {
			made.add(r, o, userID)
		}
	}
	return len(made), func() {
		r.feed.publish(made.changes(r.now()))
		r.linked(made)
	}, nil
}
