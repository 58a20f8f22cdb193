"""Feedback: from votes to judgements, from judgements to cuts. Pure; it knows neither store nor clock."""
