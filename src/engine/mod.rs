//! Inventory and playbook become batches, batches become events: plan, apply, handlers, rolling order.
