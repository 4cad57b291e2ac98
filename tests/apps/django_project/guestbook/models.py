from django.db import models


class Entry(models.Model):
    name = models.CharField(max_length=100)
    text = models.TextField(blank=True)
    picture = models.FileField(upload_to="pictures", blank=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created", "-id"]
        verbose_name_plural = "entries"

    def __str__(self):
        return self.name
