package httpapi

import (
	"net/http"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// orderBody names an order line.
type orderBody struct {
	OrderID   string `json:"order_id"`
	UserEmail string `json:"user_email"`
	DeviceMAC string `json:"device_mac"`
	Created   bool   `json:"created"` // false: the same line was there already
}

// createOrder answers 201 for a new line and 200 for the same line again.
func (a *api) createOrder(r *request) (answer, error) {
	var in struct {
		OrderID   string `json:"order_id"`
		UserEmail string `json:"user_email"`
		DeviceMAC string `json:"device_mac"`
		ShippedAt string `json:"shipped_at"`
	}
	if err := r.decode(&in, maxJSON); err != nil {
		return answer{}, err
	}
	if in.OrderID == "" || in.UserEmail == "" || in.DeviceMAC == "" {
		return answer{}, account.ErrMissingFields
	}
	o, created, err := a.Registry.CreateOrder(r.Context(), r.actor, registry.OrderRequest{OrderID: in.OrderID, UserEmail: in.UserEmail, DeviceMAC: in.DeviceMAC, ShippedAt: in.ShippedAt})
	if err != nil {
		return answer{}, err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return answer{status, orderBody{o.OrderID, o.UserEmail, string(o.DeviceMAC), created}}, nil
}
